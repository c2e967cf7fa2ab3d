#pragma once

#include <string>
#include <string_view>

namespace spanwise {

/// `text` (UTF-8) as a JSON string with its quotes: quote, backslash and control characters are escaped.
std::string json_quote(std::string_view text);

}  // namespace spanwise
