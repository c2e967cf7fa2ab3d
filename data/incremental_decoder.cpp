#include "data/incremental_decoder.h"

#include <algorithm>
#include <array>

namespace spanwise {

namespace {

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

/// Bytes of the character that `lead` begins; 1 for a byte that begins none.
size_t character_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte >= 0xF8 ? 1 : byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
}

}  // namespace

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, std::span<const int32_t> before)
    : tokenizer_(tokenizer) {
  size_t given = 0;
  for (const int32_t id : before) given += push(id).size();
  // Bytes that were open at the end have been shown too.
  seen_bytes_ = tokenizer.decode(before).size() - given;
}

std::string IncrementalDecoder::push(int32_t id) {
  if (const std::optional<uint8_t> byte = tokenizer_.byte(id)) return unseen(add_byte(id, *byte));
  std::string text = settle(open_ids_.size());
  return unseen(text += text_behind_anchor(id));
}

std::string IncrementalDecoder::finish() {
  return unseen(settle(open_ids_.size()));
}

// The text of the first `count` open bytes, which then are open no more.
std::string IncrementalDecoder::settle(size_t count) {
  if (count == 0) return "";
  const std::span<const int32_t> ids(open_ids_.data(), count);
  std::string text = tokenizer_.decode(ids);
  if (!anchor_) {
    anchor_ = ids[0];
    anchor_bytes_ = tokenizer_.decode(ids.first(1)).size();
  }
  open_ids_.erase(open_ids_.begin(), open_ids_.begin() + ptrdiff_t(count));
  open_bytes_.erase(0, count);
  return text;
}

// A byte that does not go on with the open character shows that those before it are none; whatever they
// decode to, they decode to without it.
std::string IncrementalDecoder::add_byte(int32_t id, uint8_t byte) {
  std::string text;
  if (!open_ids_.empty() && !is_continuation(char(byte))) text = settle(open_ids_.size());
  open_ids_.push_back(id);
  open_bytes_.push_back(char(byte));
  if (open_bytes_.size() == character_length(open_bytes_[0])) text += settle(open_ids_.size());
  return text;
}

std::string IncrementalDecoder::text_behind_anchor(int32_t id) {
  if (anchor_) return tokenizer_.decode(std::array{*anchor_, id}).substr(anchor_bytes_);
  std::string text = tokenizer_.decode(std::array{id});
  // An id without text may still be the space that was dropped, the only one; twice it then shows.
  if (!text.empty() || !tokenizer_.decode(std::array{id, id}).empty()) {
    anchor_ = id;
    anchor_bytes_ = text.size();
  }
  return text;
}

std::string IncrementalDecoder::unseen(std::string text) {
  const size_t skipped = std::min(seen_bytes_, text.size());
  seen_bytes_ -= skipped;
  return text.erase(0, skipped);
}

}  // namespace spanwise
