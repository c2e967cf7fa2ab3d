#include "data/incremental_decoder.h"

#include <gtest/gtest.h>
#include <sentencepiece_trainer.h>

#include <random>

#include "core/check.h"
#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"

namespace spanwise {
namespace {

using Ids = std::vector<int32_t>;

const char* const kQuickstartModel = SPANWISE_SOURCE_DIR "/configs/quickstart/tokenizer.model";

std::vector<std::string> pieces_of(const Tokenizer& tokenizer, const Ids& ids, size_t num_before = 0) {
  IncrementalDecoder decoder(tokenizer, std::span(ids).first(num_before));
  std::vector<std::string> pieces;
  for (size_t i = num_before; i < ids.size(); ++i) pieces.push_back(decoder.push(ids[i]));
  pieces.push_back(decoder.finish());
  return pieces;
}

std::string joined(const std::vector<std::string>& pieces) {
  return fmt::format("{}", fmt::join(pieces, ""));
}

/// Whether `text` is UTF-8 that neither begins nor ends inside a character.
bool is_whole(const std::string& text) {
  size_t follow = 0;
  for (const unsigned char byte : text) {
    const bool continues = (byte & 0xC0) == 0x80;
    if (continues != (follow > 0)) return false;
    follow = continues ? follow - 1 : byte >= 0xF0 ? 3 : byte >= 0xE0 ? 2 : byte >= 0xC0 ? 1 : 0;
  }
  return follow == 0;
}

/// Lists of ids that are mostly bytes, pieces with spaces and ids without text, which is where a text depends
/// on what stands around.
class RandomIds {
 public:
  explicit RandomIds(const Tokenizer& tokenizer) : vocab_size_(uint32_t(tokenizer.vocab_size())) {
    spaces_.push_back(tokenizer.end_of_document());
    for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      const std::string text = tokenizer.byte(id) ? "" : tokenizer.decode(Ids{id});
      if (tokenizer.byte(id)) {
        bytes_.push_back(id);
      } else if (text.find_first_not_of(' ') == std::string::npos) {
        spaces_.push_back(id);
      }
    }
  }
  Ids next() {
    Ids ids(random_() % 12);
    for (int32_t& id : ids) {
      const uint32_t kind = random_() % 4;
      const Ids& some = kind < 2 ? bytes_ : spaces_;
      id = kind == 3 ? int32_t(random_() % vocab_size_) : some[random_() % some.size()];
    }
    return ids;
  }

 private:
  uint32_t vocab_size_;
  Ids bytes_, spaces_;
  std::mt19937 random_{1};
};

class IncrementalDecoderTest : public testing::Test {
 protected:
  /// Models that treat a text's first space in every way there is.
  std::vector<std::unique_ptr<Tokenizer>> tokenizers() {
    std::string text;
    for (int i = 0; i < 300; ++i) text += fmt::format("some words and {} more of them, café {}\n", i * 7, i);
    write_bytes(dir_ / "text.txt", text);
    std::vector<std::unique_ptr<Tokenizer>> all;
    for (const char* prefix : {"true", "false"}) {
      for (const char* extra : {"true", "false"}) {
        const std::string stem = (dir_ / fmt::format("{}_{}", prefix, extra)).string();
        const auto status =
            sentencepiece::SentencePieceTrainer::Train({{"input", (dir_ / "text.txt").string()},
                                                        {"model_prefix", stem},
                                                        {"vocab_size", "320"},
                                                        {"model_type", "bpe"},
                                                        {"byte_fallback", "true"},
                                                        {"add_dummy_prefix", prefix},
                                                        {"remove_extra_whitespaces", extra},
                                                        {"allow_whitespace_only_pieces", "true"},
                                                        {"normalization_rule_name", "identity"},
                                                        {"minloglevel", "2"}});
        EXPECT_TRUE(status.ok()) << status.ToString();
        all.push_back(load_sentencepiece(stem + ".model"));
      }
    }
    all.push_back(load_sentencepiece(kQuickstartModel));
    all.push_back(make_byte_tokenizer());
    return all;
  }
  TempDir dir_;
};

TEST_F(IncrementalDecoderTest, PiecesOfAnyIdsAreTheDecodedText) {
  for (const auto& tokenizer : tokenizers()) {
    RandomIds random(*tokenizer);
    for (int round = 0; round < 2000; ++round) {
      const Ids ids = random.next();
      EXPECT_EQ(joined(pieces_of(*tokenizer, ids)), tokenizer->decode(ids))
          << tokenizer->name() << ": " << fmt::format("{}", fmt::join(ids, " "));
      if (HasFailure()) return;
    }
  }
}

TEST_F(IncrementalDecoderTest, PiecesOfRealTextAreWholeCharacters) {
  for (const auto& tokenizer : tokenizers()) {
    for (const std::string text :
         {"£10,000 for the café—“naïve,”", " two  spaces", "東京 🙂🙂 é", "a\nb\n\n"}) {
      const Ids ids = tokenizer->encode(text);
      const std::vector<std::string> pieces = pieces_of(*tokenizer, ids);
      EXPECT_EQ(joined(pieces), tokenizer->decode(ids)) << tokenizer->name();
      for (const std::string& piece : pieces) EXPECT_TRUE(is_whole(piece)) << piece;
      EXPECT_EQ(pieces.back(), "") << "text was held back behind whole characters";
    }
  }
  const auto quickstart = load_sentencepiece(kQuickstartModel);
  const std::string text = "£10,000 for the café—“naïve,”";
  EXPECT_EQ(joined(pieces_of(*quickstart, quickstart->encode(text))), text);
}

TEST_F(IncrementalDecoderTest, ATextGoesOnBehindAPromptAsIfDecodedWithIt) {
  for (const auto& tokenizer : tokenizers()) {
    for (const std::string text : {"£10 for the café and more of them", " and more", "東京 🙂"}) {
      const Ids ids = tokenizer->encode(text);
      for (size_t before = 0; before <= ids.size(); ++before) {
        const std::string shown = tokenizer->decode(std::span(ids).first(before));
        if (!is_whole(shown) || tokenizer->decode(ids).compare(0, shown.size(), shown) != 0) continue;
        EXPECT_EQ(shown + joined(pieces_of(*tokenizer, ids, before)), tokenizer->decode(ids))
            << tokenizer->name() << " behind " << before;
      }
    }
  }
}

TEST_F(IncrementalDecoderTest, BytesOfAPromptThatEndsInsideACharacterAreNotShownTwice) {
  const auto bytes = make_byte_tokenizer();
  const std::string text = "caf\xC3\xA9!";
  EXPECT_EQ(joined(pieces_of(*bytes, bytes->encode(text), 4)), "\xA9!");
}

TEST_F(IncrementalDecoderTest, BytesThatAreNoCharacterComeOutAsSoonAsThatIsCertain) {
  const auto tokenizer = load_sentencepiece(kQuickstartModel);
  std::vector<int32_t> id_of(256);
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    if (const auto byte = tokenizer->byte(id)) id_of[*byte] = id;
  }
  IncrementalDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(id_of[0xE2]), "");
  EXPECT_EQ(decoder.push(id_of[0x80]), "");
  EXPECT_EQ(decoder.push(id_of['x']), "\uFFFD\uFFFDx");
  EXPECT_EQ(decoder.push(id_of[0x80]), "\uFFFD");
  EXPECT_EQ(decoder.push(id_of[0xC3]), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
}

/// Counts the ids that are decoded.
class CountingTokenizer : public Tokenizer {
 public:
  explicit CountingTokenizer(std::unique_ptr<Tokenizer> inner) : inner_(std::move(inner)) {}
  int64_t vocab_size() const override { return inner_->vocab_size(); }
  uint32_t checksum() const override { return inner_->checksum(); }
  int32_t end_of_document() const override { return inner_->end_of_document(); }
  std::vector<int32_t> encode(std::string_view text) const override { return inner_->encode(text); }
  std::optional<uint8_t> byte(int32_t id) const override { return inner_->byte(id); }
  std::string name() const override { return inner_->name(); }
  std::string decode(std::span<const int32_t> ids) const override {
    num_decoded += ids.size();
    return inner_->decode(ids);
  }
  mutable size_t num_decoded = 0;

 private:
  std::unique_ptr<Tokenizer> inner_;
};

TEST_F(IncrementalDecoderTest, ItsWorkGrowsWithTheNumberOfIds) {
  CountingTokenizer tokenizer(load_sentencepiece(kQuickstartModel));
  std::string text;
  for (int i = 0; i < 500; ++i) text += "£10,000 for the café—“naïve,” ";
  const Ids ids = tokenizer.encode(text);
  EXPECT_EQ(joined(pieces_of(tokenizer, ids)), text);
  EXPECT_LE(tokenizer.num_decoded, 2 * ids.size() + 2);
}

}  // namespace
}  // namespace spanwise
