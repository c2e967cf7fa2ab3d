#include "data/utf8.h"

#include <simdjson.h>

#include <cstdint>

namespace spanwise {
namespace {

/// The character at the beginning of `text`: its bytes, or if there is none, those of its longest beginning.
struct Step {
  size_t bytes;
  bool valid;
};

Step step(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true};
  const size_t length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length == 0) return {1, false};
  // The second byte's range keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
  uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i, low = 0x80, high = 0xBF)
    if (i == text.size() || byte(i) < low || byte(i) > high) return {i, false};
  return {length, true};
}

}  // namespace

size_t valid_utf8(std::string_view text) {
  if (simdjson::validate_utf8(text.data(), text.size())) return text.size();
  size_t at = 0;
  while (at < text.size()) {
    const Step next = step(text.substr(at));
    if (!next.valid) return at;
    at += next.bytes;
  }
  return at;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string replaced;
  for (size_t at = 0; at < text.size();) {
    const Step next = step(text.substr(at));
    replaced += next.valid ? text.substr(at, next.bytes) : "\xEF\xBF\xBD";
    at += next.bytes;
  }
  return replaced;
}

}  // namespace spanwise
