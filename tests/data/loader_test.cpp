#include "data/loader.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

std::vector<int32_t> range(int32_t begin, int32_t end) {
  std::vector<int32_t> tokens(end - begin);
  std::iota(tokens.begin(), tokens.end(), begin);
  return tokens;
}

class LoaderTest : public testing::Test {
 protected:
  /// Tokens 0..599 in documents of growing size, so that a token tells its position.
  std::string numbered() {
    Documents documents;
    for (int32_t begin = 0, size = 1; begin < 600; begin += size++)
      documents.push_back(range(begin, std::min(begin + size, 600)));
    return write_dataset(dir_ / "numbered", documents);
  }
  TempDir dir_;
};

TEST_F(LoaderTest, LabelsAreTheNextTokensExceptAcrossDocuments) {
  // Sequences of 4:   | 10 11 12 20 | 21 30 40 41 | 42 43 44 45 | and one more label.
  const std::string prefix =
      write_dataset(dir_ / "x", {{10, 11, 12}, {20, 21}, {30}, {40, 41, 42, 43, 44, 45, 46}, {50, 51}});
  const SequentialLoader loader(prefix, 4, 1000);
  ASSERT_EQ(loader.num_samples(), 4);
  const Batch batch = loader.load(0, 4);
  constexpr int32_t X = kIgnoreLabel;
  EXPECT_EQ(batch.tokens,
            (std::vector<int32_t>{10, 11, 12, 20, 21, 30, 40, 41, 42, 43, 44, 45, 46, 50, 51, 0}));
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{11, 12, X, 21, X, X, 41, 42, 43, 44, 45, 46, X, 51, X, X}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 3, 4, 5, 6, 8, 12, 13}));
  EXPECT_EQ(batch.num_targets(), 10);
}

TEST_F(LoaderTest, ALabelBehindTheRowIsMaskedIfItStartsADocument) {
  const SequentialLoader loader(write_dataset(dir_ / "x", {{1, 2}, {3, 4, 5}}), 2, 1000);
  const Batch batch = loader.load(0, 1);
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{2, kIgnoreLabel}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0}));
}

TEST_F(LoaderTest, ADocumentLongerThanARowStartsNewRowsWithoutAMaskedLabel) {
  const SequentialLoader loader(write_dataset(dir_ / "x", {range(0, 13)}), 4, 1000);
  const Batch batch = loader.load(0, 3);
  EXPECT_EQ(batch.tokens, range(0, 12));
  EXPECT_EQ(batch.labels, range(1, 13));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 4, 8}));
}

TEST_F(LoaderTest, DocumentsOfOneTokenHaveNoTargets) {
  const Batch batch = SequentialLoader(write_dataset(dir_ / "x", {{1}, {2}, {3}}), 2, 1000).load(0, 1);
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{kIgnoreLabel, kIgnoreLabel}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(batch.num_targets(), 0);
}

TEST_F(LoaderTest, SequentialLoadingAsksForEveryTokenWithinADocumentOnce) {
  const std::string prefix = numbered();
  const IndexedDataset dataset(prefix);
  for (const int64_t length : {1, 7, 64, 599, 1000}) {
    const SequentialLoader loader(prefix, length, 1000);
    const Batch batch = loader.load(0, loader.num_samples());
    EXPECT_EQ(batch.num_targets(), dataset.num_tokens() - dataset.num_documents()) << length;
    for (size_t i = 0; i < batch.labels.size(); ++i) {
      if (batch.labels[i] != kIgnoreLabel) {
        ASSERT_EQ(batch.labels[i], batch.tokens[i] + 1);
      }
    }
  }
}

TEST_F(LoaderTest, RowsDoNotDependOnHowTheyAreSplitOverRanks) {
  const Loader loader({.datasets = {{numbered(), 1}},
                       .sequence_length = 8,
                       .global_batch = 12,
                       .vocab_size = 600,
                       .seed = 5});
  const Batch whole = loader.load(3, 0, 12);
  for (const int64_t num_ranks : {2, 3, 4, 12}) {
    std::vector<int32_t> tokens, labels;
    std::vector<int64_t> starts;
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      const int64_t rows = 12 / num_ranks;
      const Batch part = loader.load(3, rank * rows, rows);
      tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
      labels.insert(labels.end(), part.labels.begin(), part.labels.end());
      for (const int64_t start : part.document_starts) starts.push_back(start + rank * rows * 8);
    }
    EXPECT_EQ(tokens, whole.tokens);
    EXPECT_EQ(labels, whole.labels);
    EXPECT_EQ(starts, whole.document_starts);
  }
}

TEST_F(LoaderTest, EverySampleComesOnceAnEpochAndEpochsDiffer) {
  const std::string prefix = numbered();
  const Loader loader(
      {.datasets = {{prefix, 1}}, .sequence_length = 8, .global_batch = 37, .vocab_size = 600, .seed = 5});
  ASSERT_EQ(loader.num_samples(0), 74);  // (600 - 1) / 8: two steps an epoch
  std::vector<std::vector<int32_t>> epochs;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<int32_t> firsts;
    for (int64_t step = 2 * epoch; step < 2 * epoch + 2; ++step) {
      const Batch batch = loader.load(step, 0, 37);
      for (int64_t row = 0; row < 37; ++row) firsts.push_back(batch.tokens[row * 8]);
    }
    epochs.push_back(firsts);
    std::sort(firsts.begin(), firsts.end());
    for (int32_t sample = 0; sample < 74; ++sample) ASSERT_EQ(firsts[sample], sample * 8);
  }
  EXPECT_NE(epochs[0], epochs[1]);
}

TEST_F(LoaderTest, TheOrderDoesNotDependOnTheBatchSizeOrTheDirectory) {
  const std::string prefix = numbered();
  const Loader small(
      {.datasets = {{prefix, 1}}, .sequence_length = 8, .global_batch = 2, .vocab_size = 600, .seed = 5});
  for (const char* extension : {".bin", ".idx"}) {
    std::filesystem::create_directories(dir_ / "moved");
    std::filesystem::copy(prefix + extension, dir_ / (std::string("moved/numbered") + extension));
  }
  const Loader large({.datasets = {{(dir_ / "moved/numbered").string(), 1}},
                      .sequence_length = 8,
                      .global_batch = 6,
                      .vocab_size = 600,
                      .seed = 5});
  EXPECT_EQ(small.load(5, 0, 2).tokens, large.load(1, 4, 2).tokens);
}

TEST_F(LoaderTest, BlendsByWeight) {
  const std::string low = write_dataset(dir_ / "low", {range(0, 500)});
  const std::string high = write_dataset(dir_ / "high", {range(500, 1000)});
  const Loader loader({.datasets = {{low, 3}, {high, 1}},
                       .sequence_length = 4,
                       .global_batch = 400,
                       .vocab_size = 1000,
                       .seed = 1});
  const Batch batch = loader.load(1, 0, 400);
  int64_t num_high = 0;
  for (int64_t row = 0; row < 400; ++row) num_high += batch.tokens[row * 4] >= 500;
  EXPECT_NEAR(num_high, 100, 2);
}

TEST_F(LoaderTest, TokensBeyondTheVocabularyAreNamed) {
  const std::string prefix = numbered();
  const Loader loader(
      {.datasets = {{prefix, 1}}, .sequence_length = 8, .global_batch = 74, .vocab_size = 590, .seed = 5});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "numbered.bin: token 590 at position 590",
                      user_error_of([&] { loader.load(0, 0, 74); }));
  const SequentialLoader sequential(prefix, 8, 100);
  EXPECT_NO_THROW(sequential.load(0, 12));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "token 100 at position 100",
                      user_error_of([&] { sequential.load(12, 1); }));
}

TEST_F(LoaderTest, ADatasetWithoutASampleOrAWeightIsNamed) {
  const std::string prefix = write_dataset(dir_ / "tiny", {{1, 2, 3, 4}});
  LoaderOptions options{
      .datasets = {{prefix, 1}}, .sequence_length = 4, .global_batch = 1, .vocab_size = 10, .seed = 1};
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "tiny has 4 tokens, too few for one sample of 4",
                      user_error_of([&] { Loader{options}; }));
  options.sequence_length = 3;
  EXPECT_NO_THROW(Loader{options});
  options.datasets[0].weight = 0;
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "tiny has weight 0", user_error_of([&] { Loader{options}; }));
  options.datasets.clear();
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "no dataset", user_error_of([&] { Loader{options}; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "has 1 tokens",
                      user_error_of([&] { SequentialLoader(write_dataset(dir_ / "one", {{1}}), 4, 10); }));
}

TEST_F(LoaderTest, ADatasetWithoutAnyTargetIsNamed) {
  const std::string barren = write_dataset(dir_ / "barren", {{1}, {2}, {3}, {4}, {5}, {6}});
  const auto load = [&] {
    Loader(
        {.datasets = {{numbered()}, {barren}}, .sequence_length = 2, .global_batch = 1, .vocab_size = 600});
  };
  const std::string message = user_error_of(load);
  EXPECT_NE(message.find("barren has nothing to learn"), std::string::npos) << message;
}

TEST_F(LoaderTest, TheCursorResumesAtItsStep) {
  const LoaderOptions options{
      .datasets = {{numbered(), 1}}, .sequence_length = 8, .global_batch = 6, .vocab_size = 600, .seed = 5};
  const DataCursor cursor = Loader(options).cursor(7);
  EXPECT_EQ(cursor.samples_seen, 42);
  EXPECT_EQ(Loader(options).resume(cursor), 7);
  LoaderOptions wider = options;
  wider.global_batch = 14;
  EXPECT_EQ(Loader(wider).resume(cursor), 3);
}

TEST_F(LoaderTest, TheCursorRefusesOtherData) {
  const LoaderOptions options{
      .datasets = {{numbered(), 1}}, .sequence_length = 8, .global_batch = 6, .vocab_size = 600, .seed = 5};
  const DataCursor cursor = Loader(options).cursor(7);
  auto error_with = [&](auto change) {
    LoaderOptions changed = options;
    change(changed);
    return user_error_of([&] { Loader(changed).resume(cursor); });
  };
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "ordered by seed 5, this run has 6",
                      error_with([](auto& o) { o.seed = 6; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "sequence length 8, this run has 9",
                      error_with([](auto& o) { o.sequence_length = 9; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "has seen 42 samples",
                      error_with([](auto& o) { o.global_batch = 5; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is not the one of the checkpoint",
                      error_with([](auto& o) { o.datasets[0].weight = 2; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "on 1 datasets, this run names 2",
                      error_with([](auto& o) { o.datasets.push_back(o.datasets[0]); }));
  std::filesystem::create_directories(dir_ / "other");
  const std::string other = write_dataset(dir_ / "other/numbered", {range(0, 600)});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is not the one of the checkpoint",
                      error_with([&](auto& o) { o.datasets[0].prefix = other; }));
}

TEST_F(LoaderTest, RowsOutsideTheBatchAreAnInternalError) {
  const Loader loader(
      {.datasets = {{numbered(), 1}}, .sequence_length = 8, .global_batch = 6, .vocab_size = 600, .seed = 5});
  EXPECT_THROW(loader.load(0, 5, 2), Error);
  EXPECT_THROW(loader.load(-1, 0, 1), Error);
}

}  // namespace
}  // namespace spanwise
