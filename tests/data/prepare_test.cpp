#include "data/prepare.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "data/indexed_dataset.h"
#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

class PrepareTest : public testing::Test {
 protected:
  PrepareOptions options(std::vector<std::string> inputs, const std::string& output = "out/x") {
    PrepareOptions options;
    options.text.inputs = std::move(inputs);
    options.output = (dir_ / output).string();
    return options;
  }
  PrepareResult prepare(const PrepareOptions& options) { return prepare_dataset(options, *tokenizer_); }

  /// The documents of a dataset as text, each without its end-of-document, which must be there.
  std::vector<std::string> documents(const std::string& prefix) {
    const IndexedDataset dataset(prefix);
    std::vector<std::string> texts;
    for (int64_t i = 0; i < dataset.num_documents(); ++i) {
      std::vector<int32_t> tokens(dataset.document_size(i));
      dataset.read(dataset.document_begin(i), dataset.document_size(i), tokens.data());
      EXPECT_EQ(tokens.back(), tokenizer_->end_of_document());
      texts.push_back(tokenizer_->decode(tokens));
    }
    return texts;
  }
  std::string file(const std::string& name, const std::string& content) {
    return write_bytes(dir_ / name, content);
  }
  std::string error_of(const PrepareOptions& options) {
    return user_error_of([&] { prepare(options); });
  }
  using Texts = std::vector<std::string>;

  TempDir dir_;
  std::unique_ptr<Tokenizer> tokenizer_ = make_byte_tokenizer();
};

TEST_F(PrepareTest, KeepsDocumentsApartAndInOrder) {
  const auto settings =
      options({file("a.txt", "one\ntwo\n"),
               file("b.jsonl", "{\"text\": \"h\\u00e9\\n\"}\n\n{\"n\": 1, \"text\": \"b\"}"),
               file("empty.txt", " \n"), file("c.txt", "three")});
  const auto result = prepare(settings);
  EXPECT_EQ(documents(settings.output), (Texts{"one\ntwo\n", "hé\n", "b", "three"}));
  EXPECT_EQ(result.train.num_documents, 4);
  EXPECT_EQ(result.train.num_tokens, 8 + 4 + 1 + 5 + 4 + 1);  // an end before the first
  EXPECT_FALSE(result.valid);
}

TEST_F(PrepareTest, ASeparatorLineSplitsText) {
  auto settings = options({file("a.txt", "---\none\n--- not\n---\n\n---\r\ntwo\n---\n")});
  settings.text.document_separator = "---";
  prepare(settings);
  EXPECT_EQ(documents(settings.output), (Texts{"one\n--- not\n", "two\n"}));
}

TEST_F(PrepareTest, TheTextFieldHasAnyNameAndEmptyRecordsAreCounted) {
  auto settings =
      options({file("a.jsonl", "{\"body\": \"x\", \"text\": 1}\n{\"body\": \"\"}\n{\"body\": \"y\"}\n")});
  settings.text.text_field = "body";
  const auto result = prepare(settings);
  EXPECT_EQ(documents(settings.output), (Texts{"x", "y"}));
  EXPECT_EQ(result.num_empty_documents, 1);
}

TEST_F(PrepareTest, OutputIsTheSameForAnyNumberOfThreads) {
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    lines += fmt::format("{{\"text\": \"document {} {}\"}}\n", i, std::string(i * 7 % 200, 'x'));
  const std::string input = file("a.jsonl", lines);
  auto settings = options({input}, "out/1");
  settings.holdout = Holdout::kDocuments;
  settings.holdout_fraction = 0.1;
  prepare(settings);
  for (const int num_threads : {2, 5}) {
    auto threaded = settings;
    threaded.output = (dir_ / fmt::format("out/{}", num_threads)).string();
    threaded.num_threads = num_threads;
    prepare(threaded);
    for (const char* file : {"_train.bin", "_train.idx", "_valid.bin", "_valid.idx"})
      EXPECT_EQ(file_bytes(threaded.output + file), file_bytes(settings.output + file))
          << num_threads << file;
  }
}

TEST_F(PrepareTest, BatchesFollowEachOtherWithoutASeam) {
  // More text than one batch holds, in documents of 1 MiB.
  std::string text;
  for (int i = 0; i < 20; ++i) text += std::string(1 << 20, char('a' + i)) + "\n=\n";
  auto settings = options({file("a.txt", text)});
  settings.text.document_separator = "=";
  settings.num_threads = 2;
  std::vector<PrepareProgress> progress;
  settings.progress = [&](const PrepareProgress& p) { progress.push_back(p); };
  prepare(settings);
  const Texts texts = documents(settings.output);
  ASSERT_EQ(texts.size(), 20);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(texts[i][0], 'a' + i);
  // After each of two batches, and within one that takes long.
  ASSERT_GE(progress.size(), 2);
  for (size_t i = 0; i + 1 < progress.size(); ++i) {
    EXPECT_LT(progress[i].bytes_read, progress[i].total_bytes);
    EXPECT_LE(progress[i].bytes_read, progress[i + 1].bytes_read);
  }
  EXPECT_EQ(progress.back().bytes_read, int64_t(text.size()));
  EXPECT_EQ(progress.back().total_bytes, int64_t(text.size()));
  EXPECT_EQ(progress.back().num_documents, 20);
}

TEST_F(PrepareTest, ProgressWithinABatchThatTakesLongIsSaid) {
  class Slow : public Tokenizer {
   public:
    int64_t vocab_size() const override { return 257; }
    int32_t end_of_document() const override { return 256; }
    std::vector<int32_t> encode(std::string_view text) const override {
      std::this_thread::sleep_for(std::chrono::milliseconds(110));
      return {text.begin(), text.end()};
    }
    std::string decode(std::span<const int32_t>) const override { return ""; }
    std::optional<uint8_t> byte(int32_t) const override { return std::nullopt; }
    uint32_t checksum() const override { return 0; }
    std::string name() const override { return "slow"; }
  };
  auto settings = options({file("a.txt", "1\n=\n2\n=\n3\n=\n4\n")});
  settings.text.document_separator = "=";
  std::vector<int64_t> bytes;
  settings.progress = [&](const PrepareProgress& now) { bytes.push_back(now.bytes_read); };
  prepare_dataset(settings, Slow());
  ASSERT_GE(bytes.size(), 3);  // after the second and fourth document at the latest, and after the batch
  EXPECT_GT(bytes[0], 0);
  EXPECT_LE(bytes[0], 7);
  EXPECT_EQ(bytes.back(), 14);
}

TEST_F(PrepareTest, HoldsOutDocumentsEvenlySpread) {
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += fmt::format("{{\"text\": \"{}\"}}\n", i);
  auto settings = options({file("a.jsonl", lines)});
  settings.holdout = Holdout::kDocuments;
  settings.holdout_fraction = 0.25;
  const auto result = prepare(settings);
  EXPECT_EQ(documents(settings.output + "_train"), (Texts{"0", "1", "2", "4", "5", "6", "8", "9"}));
  EXPECT_EQ(documents(settings.output + "_valid"), (Texts{"3", "7"}));
  EXPECT_EQ(result.valid->num_documents, 2);
  EXPECT_EQ(result.valid->prefix, settings.output + "_valid");
}

TEST_F(PrepareTest, HoldsOutTheTailOfEveryDocument) {
  auto settings = options({file("a.txt", "0123456789"), file("b.txt", "ab")});
  settings.holdout = Holdout::kTails;
  settings.holdout_fraction = 0.2;
  prepare(settings);
  EXPECT_EQ(documents(settings.output + "_train"), (Texts{"01234567", "ab"}));
  EXPECT_EQ(documents(settings.output + "_valid"), (Texts{"89"}));
}

TEST_F(PrepareTest, BadRecordsAreNamedByLineForAnyNumberOfThreadsAndLeaveNothing) {
  const std::string good = "{\"text\": \"x\"}\n";
  for (const int num_threads : {1, 2, 5}) {
    auto message = [&](const std::string& line) {
      auto settings = options({file("a.jsonl", good + "\n" + line + "\n" + good + "[]\n")});
      settings.num_threads = num_threads;
      return error_of(settings);
    };
    EXPECT_PRED_FORMAT2(testing::IsSubstring,
                        "a.jsonl:3: not JSON: a string does not close, at byte 12 of the line",
                        message("{\"text\": \"x"));
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "a.jsonl:3: not a JSON object, at byte 1 of the line",
                        message("[1]"));
    EXPECT_PRED_FORMAT2(testing::IsSubstring,
                        "a.jsonl:3: there is more behind the object, at byte 4 of the line",
                        message("{} {}"));
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "a.jsonl:3: the record has no field \"text\"",
                        message("{\"body\": \"x\"}"));
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "a.jsonl:3: the field \"text\" is not a string",
                        message("{\"text\": 5}"));
    EXPECT_EQ(num_files(dir_ / "out"), 0);
  }
}

TEST_F(PrepareTest, BadInputsAreNamedBeforeAnyWork) {
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "no input file", error_of(options({})));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "a.csv is no .txt, .md or .jsonl",
                      error_of(options({file("a.csv", "x")})));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "input: cannot read none.txt: No such file",
                      error_of(options({"none.txt"})));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "no text is left", error_of(options({file("a.txt", "\n")})));
  EXPECT_EQ(num_files(dir_ / "out"), 0);
}

TEST_F(PrepareTest, AHoldoutThatCannotBeHonouredIsRefused) {
  auto settings = options({file("a.txt", "one")});
  settings.holdout_fraction = 0.5;
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "not whether documents or their tails", error_of(settings));
  settings.holdout = Holdout::kDocuments;
  settings.holdout_fraction = 1;
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "not a fraction", error_of(settings));
  settings.holdout_fraction = 0.1;
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x_valid without text", error_of(settings));
  EXPECT_EQ(num_files(dir_ / "out"), 0);
}

TEST_F(PrepareTest, AnExistingOutputStaysUnlessOverwritingIsAllowedAndSucceeds) {
  auto settings = options({file("a.txt", "old")});
  prepare(settings);
  settings.text.inputs = {file("b.txt", "new")};
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin exists already", error_of(settings));
  settings.overwrite = Overwrite::kAllow;
  auto failing = settings;
  failing.text.inputs.push_back(file("c.jsonl", "nonsense"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "c.jsonl:1", error_of(failing));
  EXPECT_EQ(documents(settings.output), Texts{"old"});
  prepare(settings);
  EXPECT_EQ(documents(settings.output), Texts{"new"});
  EXPECT_EQ(num_files(dir_ / "out"), 3);
}

}  // namespace
}  // namespace spanwise
