#pragma once
// Text of ids that come one at a time, as generation draws them.
//
// The decoded prefix of a list is no prefix of the decoded list: the bytes of one character may be several
// ids, and a SentencePiece model drops the space at a text's beginning. This gives what has become certain:
//
//   IncrementalDecoder decoder(tokenizer, prompt_ids);
//   for (each new id) show(decoder.push(id));
//   show(decoder.finish());
//
// All that is shown, behind decode(prompt_ids), is decode(prompt_ids and the new ids), byte for byte.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace spanwise {

/// Every push decodes a handful of ids, however many there were before; what is held back is less than one
/// character, four ids at most. Keeps a reference to the tokenizer.
class IncrementalDecoder {
 public:
  /// Begins behind the ids of `before`, whose text, decode(before), has been shown already. Where they end
  /// inside a character, as many of its bytes as were shown are left out when it is whole.
  explicit IncrementalDecoder(const Tokenizer& tokenizer, std::span<const int32_t> before = {});

  /// The text that `id` makes certain: whole characters, which no later id can change, or nothing. Bytes
  /// that are no UTF-8 come out as the tokenizer decodes them.
  std::string push(int32_t id);
  /// What is held back, as it decodes where no id follows. The decoder then stands as if no byte were open.
  std::string finish();

 private:
  std::string settle(size_t count);
  std::string add_byte(int32_t id, uint8_t byte);
  std::string text_behind_anchor(int32_t id);
  std::string unseen(std::string text);

  const Tokenizer& tokenizer_;
  std::vector<int32_t> open_ids_;  ///< of the bytes that may begin a character
  std::string open_bytes_;         ///< the same bytes
  std::optional<int32_t> anchor_;  ///< an id behind which no space is dropped; empty at the text's beginning
  size_t anchor_bytes_ = 0;        ///< length of the anchor's own text
  size_t seen_bytes_ = 0;          ///< of the coming text, those that `before` has shown
};

}  // namespace spanwise
