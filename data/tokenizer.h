#pragma once
// Text to token ids and back.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace spanwise {

/// Safe to share between threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Ids are in [0, vocab_size).
  virtual int64_t vocab_size() const = 0;
  /// The id that ends every document; encode never yields it.
  virtual int32_t end_of_document() const = 0;
  /// The id that begins every document (SentencePiece's <s>), for a tokenizer that has one; encode never
  /// yields it, and it gives no text.
  virtual std::optional<int32_t> begin_of_document() const { return std::nullopt; }
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// The text of a whole list of ids. End-of-document gives no text. A character may span several ids:
  /// incremental_decoder.h gives the text of ids as they come.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  /// The byte that an id stands for; empty for one that has a text of whole characters, or none.
  virtual std::optional<uint8_t> byte(int32_t id) const = 0;
  /// CRC-32C of what the tokenizer is made of: the bytes of its model.
  virtual uint32_t checksum() const = 0;
  /// For messages and logs: "bytes", or the model's path.
  virtual std::string name() const = 0;
};

/// 256 bytes and one end-of-document id, 256. decode(encode(x)) = x for any bytes x.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

/// A trained SentencePiece .model. UserError if it cannot be read, is damaged, or has no </s> to end
/// documents with.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path);

/// "bytes", or the path of a SentencePiece model.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& bytes_or_path);

}  // namespace spanwise
