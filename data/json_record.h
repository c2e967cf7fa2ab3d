#pragma once
// The text of one JSON record. Fields that nobody asks for may hold what is not JSON (NaN, say) or be nested
// to any depth: of them only brackets and strings have to close.

#include <optional>
#include <string>
#include <string_view>

namespace spanwise {

struct JsonText {
  std::optional<std::string> text;  // nothing if the record is bad
  std::string fault;                // why
  size_t byte = 0;                  // where in the record, from 0
};

enum class LoneSurrogates { kRefuse, kReplace };

/// The string field `name` of the object `record`, which is UTF-8. LoneSurrogates::kReplace reads an escape
/// of half a UTF-16 pair, which is no character, as U+FFFD. Thread-safe.
JsonText json_text(std::string_view record, std::string_view name, LoneSurrogates surrogates);

}  // namespace spanwise
