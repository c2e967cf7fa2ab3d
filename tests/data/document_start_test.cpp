#include "data/document_start.h"

#include <gtest/gtest.h>

#include "data/loader.h"
#include "data/prepare.h"
#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

constexpr int32_t E = 900, B = 901, X = kIgnoreLabel;
constexpr DocumentRule kEnd{.start = DocumentStart::kEndOfDocument, .end_of_document = E};
constexpr DocumentRule kBegin{.start = DocumentStart::kBeginOfDocument, .end_of_document = E};

/// Bytes, and a begin-of-document id.
class BeginningTokenizer : public Tokenizer {
 public:
  int64_t vocab_size() const override { return 902; }
  int32_t end_of_document() const override { return E; }
  std::optional<int32_t> begin_of_document() const override { return B; }
  std::vector<int32_t> encode(std::string_view text) const override { return {text.begin(), text.end()}; }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids)
      if (id < 256) text.push_back(char(id));
    return text;
  }
  std::optional<uint8_t> byte(int32_t) const override { return std::nullopt; }
  uint32_t checksum() const override { return 0; }
  std::string name() const override { return "beginning"; }
};

class DocumentStartTest : public testing::Test {
 protected:
  Batch load(const Documents& documents, int64_t length, DocumentRule rule) {
    SequentialLoader loader(write_dataset(dir_ / "x", documents, 1000, Overwrite::kAllow), length, 1000);
    loader.set_documents(rule);
    return loader.load(0, loader.num_samples());
  }
  std::vector<int32_t> prepared(const Tokenizer& tokenizer, std::vector<std::string> texts) {
    PrepareOptions options{.output = (dir_ / "p").string(), .overwrite = Overwrite::kAllow};
    for (const std::string& text : texts)
      options.text.inputs.push_back(
          write_bytes(dir_ / (std::to_string(options.text.inputs.size()) + ".txt"), text));
    prepare_dataset(options, tokenizer);
    const IndexedDataset dataset(options.output);
    std::vector<int32_t> tokens(dataset.num_tokens());
    dataset.read(0, dataset.num_tokens(), tokens.data());
    return tokens;
  }
  TempDir dir_;
};

TEST_F(DocumentStartTest, AnEndBelongsToTheDocumentBehindItAndAsksForItsFirstToken) {
  const Batch batch = load({{E, 10, 11, E}, {20, E}, {30, 31, E}}, 8, kEnd);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{E, 10, 11, E, 20, E, 30, 31}));
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{10, 11, E, 20, E, 30, 31, E}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 3, 5}));
}

TEST_F(DocumentStartTest, StartsLieRightWhereverARowIsCut) {
  const Documents documents{{E, 10, 11, E}, {20, E}, {30, 31, E}};
  const std::vector<int32_t> tokens{E, 10, 11, E, 20, E, 30, 31, E};
  for (const int64_t length : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const Batch batch = load(documents, length, kEnd);
    std::vector<int64_t> starts;
    for (int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(batch.labels[i], tokens[i + 1]) << length;
      if (i % length == 0 || tokens[i] == E) starts.push_back(i);
    }
    for (int64_t i = 8; i < int64_t(batch.labels.size()); ++i) EXPECT_EQ(batch.labels[i], X) << length;
    // What fills the last row up begins nothing; an end that is only a label starts nothing.
    EXPECT_EQ(
        std::vector<int64_t>(batch.document_starts.begin(), batch.document_starts.begin() + starts.size()),
        starts)
        << length;
    for (size_t i = starts.size(); i < batch.document_starts.size(); ++i)
      EXPECT_EQ(batch.document_starts[i] % length, 0) << length;
  }
}

TEST_F(DocumentStartTest, EveryTokenButTheFirstOfTheDatasetIsPredictedOnce) {
  const Documents documents{{E, 1, E}, {2, 3, E}, {E}, {4, 5, 6, E}};
  for (const int64_t length : {1, 3, 4, 10}) {
    const Batch batch = load(documents, length, kEnd);
    EXPECT_EQ(batch.num_targets(), 10) << length;
  }
}

TEST_F(DocumentStartTest, DocumentsThatEndInAnotherTokenStartAtTheirOwnFirst) {
  const Batch batch = load({{1, 2}, {3, E}, {4, 5}}, 5, kEnd);
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{2, X, E, 4, 5}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 2, 3}));
}

TEST_F(DocumentStartTest, ADatasetWithoutAnEndBeforeItsFirstDocumentAsksForAllButThatToken) {
  const Batch batch = load({{7, 8, E}, {9, E}}, 4, kEnd);
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{8, E, 9, E}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 2}));
}

TEST_F(DocumentStartTest, ABeginningStartsItsDocumentAndIsNotAskedFor) {
  const Batch batch = load({{B, 10, 11, E}, {B, 20, E}}, 6, kBegin);
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{10, 11, E, X, 20, E}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 4}));
}

TEST_F(DocumentStartTest, AnOlderRunGoesOnWithoutFirstTokens) {
  const Batch batch = load({{10, 11, E}, {20, E}}, 4, {});
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{11, E, X, E}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 3}));
}

TEST_F(DocumentStartTest, TrainingAndHeldOutRowsFollowTheSameRule) {
  const std::string prefix = write_dataset(dir_ / "x", {{E, 10, 11, E}, {20, E}});
  Loader loader(
      {.datasets = {{prefix, 1}}, .sequence_length = 5, .global_batch = 1, .vocab_size = 1000, .seed = 1});
  loader.set_documents(kEnd);
  SequentialLoader held_out(prefix, 5, 1000);
  held_out.set_documents(kEnd);
  EXPECT_EQ(loader.load(0, 0, 1).labels, held_out.load(0, 1).labels);
  EXPECT_EQ(loader.load(0, 0, 1).document_starts, (std::vector<int64_t>{0, 3}));
}

TEST_F(DocumentStartTest, PrepareStoresTheStartOfEveryDocument) {
  EXPECT_EQ(prepared(BeginningTokenizer(), {"a", "bc"}), (std::vector<int32_t>{B, 'a', E, B, 'b', 'c', E}));
  EXPECT_EQ(prepared(*make_byte_tokenizer(), {"a", "bc"}),
            (std::vector<int32_t>{256, 'a', 256, 'b', 'c', 256}));
}

TEST_F(DocumentStartTest, ANewRunTakesTheBeginningThatItsDataHas) {
  const IndexedDataset b(write_dataset(dir_ / "b", {{B, 1, E}})), e(write_dataset(dir_ / "e", {{1, E}}));
  const std::vector<const IndexedDataset*> with{&b}, without{&e}, both{&b, &e};
  const BeginningTokenizer tokenizer;
  EXPECT_EQ(choose_document_start(tokenizer, with), DocumentStart::kBeginOfDocument);
  EXPECT_EQ(choose_document_start(tokenizer, without), DocumentStart::kEndOfDocument);
  EXPECT_EQ(choose_document_start(*make_byte_tokenizer(), without), DocumentStart::kEndOfDocument);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "prepare both with this tokenizer",
                      user_error_of([&] { choose_document_start(tokenizer, both); }));
}

TEST_F(DocumentStartTest, DataThatBeginsOtherwiseThanTheRunsIsNamed) {
  const IndexedDataset b(write_dataset(dir_ / "b", {{B, 1, E}})), e(write_dataset(dir_ / "e", {{1, E}}));
  const BeginningTokenizer tokenizer;
  const auto problem = [&](DocumentStart start, const IndexedDataset& dataset) {
    return document_start_problem(start, tokenizer, dataset);
  };
  EXPECT_EQ(problem(DocumentStart::kBeginOfDocument, b), "");
  EXPECT_EQ(problem(DocumentStart::kEndOfDocument, e), "");
  EXPECT_EQ(problem(DocumentStart::kFirstToken, b) + problem(DocumentStart::kFirstToken, e), "");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "/e do not begin with token",
                      problem(DocumentStart::kBeginOfDocument, e));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "/b begin with token", problem(DocumentStart::kEndOfDocument, b));
  EXPECT_EQ(document_start_problem(DocumentStart::kEndOfDocument, *make_byte_tokenizer(), b), "");
}

TEST_F(DocumentStartTest, ATableOfChecksumsSaysHowDocumentsBegin) {
  class Begins256 : public BeginningTokenizer {
    std::optional<int32_t> begin_of_document() const override { return 256; }
  };
  // The first token is an end of a document, which another tokenizer's begin may equal.
  ASSERT_EQ(prepared(*make_byte_tokenizer(), {"text"})[0], 256);
  const IndexedDataset dataset((dir_ / "p").string());
  EXPECT_EQ(choose_document_start(Begins256(), {&dataset}), DocumentStart::kEndOfDocument);
}

TEST_F(DocumentStartTest, GenerationBeginsWithTheStartOfTheRun) {
  const BeginningTokenizer tokenizer;
  EXPECT_EQ(start_token(DocumentStart::kFirstToken, tokenizer), std::nullopt);
  EXPECT_EQ(start_token(DocumentStart::kEndOfDocument, tokenizer), E);
  EXPECT_EQ(start_token(DocumentStart::kBeginOfDocument, tokenizer), B);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "does not have", user_error_of([&] {
                        start_token(DocumentStart::kBeginOfDocument, *make_byte_tokenizer());
                      }));
}

}  // namespace
}  // namespace spanwise
