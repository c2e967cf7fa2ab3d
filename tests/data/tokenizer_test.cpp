#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <sentencepiece_trainer.h>

#include "data/sentencepiece_trainer.h"
#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

TEST(ByteTokenizer, GivesBackAnyBytes) {
  const auto tokenizer = make_byte_tokenizer();
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text.push_back(char(byte));
  const auto ids = tokenizer->encode(text);
  EXPECT_EQ(ids[200], 200);
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(tokenizer->vocab_size(), 257);
}

TEST(ByteTokenizer, EndOfDocumentHasAnIdOfItsOwnAndNoText) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->end_of_document(), 256);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{'a', 256, 'b'}), "ab");
  EXPECT_THROW(tokenizer->decode(std::vector<int32_t>{257}), Error);
}

/// A few hundred lines with enough different words for some hundred pieces.
std::string training_text() {
  std::string text;
  for (int i = 0; i < 400; ++i) {
    for (int word = 0; word < 8; ++word)
      for (int n = (i * 37 + word * 101) % 1000 + 1; n > 0; n /= 6)
        text += std::string(1, char('a' + n % 23)) + "on";
    text += i % 5 == 0 ? "\n\n" : i % 2 == 0 ? " café the end.\n" : " ";
  }
  return text;
}

class SentencePieceTest : public testing::Test {
 protected:
  SentencePieceOptions options(const std::string& name) {
    return {.text = {.inputs = {write_bytes(dir_ / "text.txt", training_text())}},
            .output = (dir_ / name).string(),
            .vocab_size = 320};
  }
  TempDir dir_;
};

TEST_F(SentencePieceTest, GivesBackAnyText) {
  for (const auto kind : {SentencePieceKind::kBpe, SentencePieceKind::kUnigram}) {
    auto settings = options(kind == SentencePieceKind::kBpe ? "bpe.model" : "unigram.model");
    settings.kind = kind;
    train_sentencepiece(settings);
    const auto tokenizer = make_tokenizer(settings.output);
    EXPECT_EQ(tokenizer->vocab_size(), 320);
    for (const std::string text : {"", " ", "the end.", "  two  spaces ", "lines\n\n\tand tabs\r\n",
                                   "naïve 東京 🙂", "<unk> </s> 1234", "\nonon café\n"}) {
      const auto ids = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->decode(ids), text);
      for (const int32_t id : ids) {
        EXPECT_NE(id, tokenizer->end_of_document());
        EXPECT_LT(id, 320);
      }
    }
    EXPECT_LT(tokenizer->encode(training_text()).size(), training_text().size() / 2);
    EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{tokenizer->end_of_document()}), "");
  }
}

TEST_F(SentencePieceTest, IdsOfTwoTextsBehindEachOtherAreTheTwoTexts) {
  auto settings = options("x.model");
  train_sentencepiece(settings);
  const auto tokenizer = load_sentencepiece(settings.output);
  auto ids = tokenizer->encode("the e");
  const auto more = tokenizer->encode("nd.");
  ids.insert(ids.end(), more.begin(), more.end());
  EXPECT_EQ(tokenizer->decode(ids), "the end.");
}

TEST_F(SentencePieceTest, TrainingTwiceGivesTheSameBytes) {
  for (const auto kind : {SentencePieceKind::kBpe, SentencePieceKind::kUnigram}) {
    std::string models[2];
    for (auto& model : models) {
      auto settings = options("x.model");
      settings.kind = kind;
      settings.overwrite = Overwrite::kAllow;
      train_sentencepiece(settings);
      model = file_bytes(settings.output);
    }
    EXPECT_EQ(models[0], models[1]);
  }
}

TEST_F(SentencePieceTest, TrainingIsSilent) {
  testing::internal::CaptureStderr();
  train_sentencepiece(options("x.model"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(SentencePieceTest, TrainsOnJsonLinesAsOnText) {
  auto from_text = options("a.model");
  train_sentencepiece(from_text);
  std::string json;
  google::protobuf::Struct record;
  (*record.mutable_fields())["body"].set_string_value(training_text());
  ASSERT_TRUE(google::protobuf::util::MessageToJsonString(record, &json).ok());
  auto from_json = options("b.model");
  from_json.text.inputs = {write_bytes(dir_ / "text.jsonl", json + "\n")};
  from_json.text.text_field = "body";
  train_sentencepiece(from_json);
  // The models keep their settings, which are equal; so are the pieces.
  EXPECT_EQ(file_bytes(from_text.output), file_bytes(from_json.output));
}

TEST_F(SentencePieceTest, EveryFaultOfTrainingIsNamed) {
  auto message = [&](auto change) {
    auto changed = options("bad.model");
    change(changed);
    return user_error_of([&] { train_sentencepiece(changed); });
  };
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "258 pieces is too small",
                      message([](auto& o) { o.vocab_size = 258; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot train 50000 pieces",
                      message([](auto& o) { o.vocab_size = 50000; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot train 50000 pieces", message([](auto& o) {
                        o.vocab_size = 50000;
                        o.kind = SentencePieceKind::kUnigram;
                      }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot train 262 pieces",
                      message([](auto& o) { o.vocab_size = 262; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "none.txt",
                      message([](auto& o) { o.text.inputs = {"none.txt"}; }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot create directory ", message([&](auto& o) {
                        o.output = o.text.inputs[0] + "/x.model";  // below a file
                      }));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "bad.model"));
  write_bytes(dir_ / "bad.model", "old");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "bad.model exists already", message([](auto&) {}));
  EXPECT_EQ(file_bytes(dir_ / "bad.model"), "old");
}

TEST_F(SentencePieceTest, AModelOfAnotherProgramMayHaveABeginning) {
  const SentencePieceOptions own = options("own.model");
  train_sentencepiece(own);
  EXPECT_EQ(load_sentencepiece(own.output)->begin_of_document(), std::nullopt);
  ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train({{"input", own.text.inputs[0]},
                                                          {"model_prefix", (dir_ / "other").string()},
                                                          {"vocab_size", "100"},
                                                          {"hard_vocab_limit", "false"},
                                                          {"minloglevel", "2"}})
                  .ok());
  const auto other = load_sentencepiece((dir_ / "other.model").string());
  EXPECT_EQ(other->begin_of_document(), 1);
  EXPECT_EQ(other->end_of_document(), 2);
  EXPECT_EQ(other->decode(std::vector<int32_t>{1}), "");
  EXPECT_NE(other->checksum(), load_sentencepiece(own.output)->checksum());
}

TEST_F(SentencePieceTest, MissingAndDamagedModelsAreNamed) {
  auto message = [&](const std::string& path) { return user_error_of([&] { load_sentencepiece(path); }); };
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot read the tokenizer none.model", message("none.model"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot read the tokenizer", message(dir_.path().string()));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is not a SentencePiece model",
                      message(write_bytes(dir_ / "a", "garbage")));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "b is empty", message(write_bytes(dir_ / "b", "")));
  auto settings = options("x.model");
  train_sentencepiece(settings);
  const std::string model = file_bytes(settings.output);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is not a SentencePiece model",
                      message(write_bytes(dir_ / "c", model.substr(0, model.size() / 2 + 1))));
}

}  // namespace
}  // namespace spanwise
