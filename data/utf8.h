#pragma once
// Whether bytes are UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF).

#include <cstddef>
#include <string>
#include <string_view>

namespace spanwise {

/// Bytes before the first one that does not belong to a character; text.size() if all do.
size_t valid_utf8(std::string_view text);

/// With U+FFFD for each longest run of bytes that begins a character without completing it, and for each
/// other byte that belongs to none (as in the Unicode Standard, "substitution of maximal subparts").
std::string replace_invalid_utf8(std::string_view text);

}  // namespace spanwise
