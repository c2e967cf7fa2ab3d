#include "data/tokenizer.h"

#include "core/check.h"
#include "core/crc32c.h"

namespace spanwise {
namespace {

constexpr int32_t kNumBytes = 256;

class ByteTokenizer : public Tokenizer {
 public:
  int64_t vocab_size() const override { return kNumBytes + 1; }
  int32_t end_of_document() const override { return kNumBytes; }
  std::string name() const override { return "bytes"; }
  uint32_t checksum() const override { return crc32c("bytes", 5); }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size());
    for (const unsigned char byte : text) ids.push_back(byte);
    return ids;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      SPANWISE_CHECK(id >= 0 && id <= kNumBytes, "id {} is not in the byte vocabulary of {}", id,
                     vocab_size());
      if (id < kNumBytes) text.push_back(char(id));
    }
    return text;
  }

  std::optional<uint8_t> byte(int32_t id) const override {
    return id < kNumBytes ? std::optional(uint8_t(id)) : std::nullopt;
  }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& bytes_or_path) {
  return bytes_or_path == "bytes" ? make_byte_tokenizer() : load_sentencepiece(bytes_or_path);
}

}  // namespace spanwise
