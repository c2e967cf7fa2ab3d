#include "data/json_record.h"

#include <simdjson.h>

#include <charconv>

#include "core/check.h"

namespace spanwise {
namespace {

namespace ondemand = simdjson::ondemand;

/// The value of the four digits at `at`, of an escape "\uXXXX"; -1 if they are none.
int code_unit(std::string_view text, size_t at) {
  unsigned value = 0;
  if (at + 4 > text.size()) return -1;
  const auto [end, error] = std::from_chars(text.data() + at, text.data() + at + 4, value, 16);
  return error == std::errc() && end == text.data() + at + 4 ? int(value) : -1;
}

bool is_high(int unit) {
  return unit >= 0xD800 && unit < 0xDC00;
}
bool is_low(int unit) {
  return unit >= 0xDC00 && unit < 0xE000;
}

/// Calls found(position of the four digits) for each escape of half a pair.
template <class F>
void for_each_lone_surrogate(std::string_view text, F&& found) {
  for (size_t at = text.find('\\'); at != text.npos; at = text.find('\\', at)) {
    if (at + 1 >= text.size() || text[at + 1] != 'u') {
      at += 2;
      continue;
    }
    const int unit = code_unit(text, at + 2);
    const bool pair = is_high(unit) && text.substr(at + 6, 2) == "\\u" && is_low(code_unit(text, at + 8));
    if (!pair && (is_high(unit) || is_low(unit))) found(at + 2);
    at += pair ? 12 : 2;
  }
}

/// What simdjson says behind the name of its code.
std::string sentence_of(simdjson::error_code error) {
  std::string text = simdjson::error_message(error);
  if (const size_t colon = text.find(": "); colon != text.npos) text = text.substr(colon + 2);
  while (!text.empty() && (text.back() == '.' || text.back() == ' ')) text.pop_back();
  return text;
}

/// A parse of one record, which stops at its first fault.
class Record {
 public:
  Record(std::string& padded, size_t size) : padded_(padded), size_(size) {}

  JsonText text_of(std::string_view name) {
    static thread_local ondemand::parser parser;
    ondemand::document document;
    // The parser keeps what it has allocated; on-demand values are read in place.
    auto error = parser.iterate(padded_.data(), size_, padded_.size()).get(document);
    if (error) return fault(error, nullptr);
    ondemand::object object;
    if (padded_.find_first_not_of(" \t\r\n") < size_ && padded_[padded_.find_first_not_of(" \t\r\n")] != '{')
      return {.fault = "not a JSON object", .byte = padded_.find_first_not_of(" \t\r\n")};
    if ((error = document.get_object().get(object))) return fault(error, &document);
    JsonText found;
    bool has_field = false;
    for (auto field : object) {
      std::string_view key, value;
      ondemand::value content;
      if ((error = field.unescaped_key().get(key))) return fault(error, &document);
      if (key != name) continue;
      if (has_field)
        return {.fault = fmt::format("the field \"{}\" comes twice", name), .byte = byte_of(document)};
      has_field = true;
      if ((error = field.value().get(content))) return fault(error, &document);
      const size_t begin = byte_of(document);
      ondemand::json_type type;
      if ((error = content.type().get(type))) return fault(error, &document);
      if (type != ondemand::json_type::string)
        return {.fault = fmt::format("the field \"{}\" is not a string", name), .byte = begin};
      if ((error = content.get_string().get(value)))
        return {.fault = string_fault(error, begin), .byte = begin};
      found.text = std::string(value);
    }
    if (const char* rest = nullptr; document.current_location().get(rest) == simdjson::SUCCESS)
      return {.fault = "there is more behind the object", .byte = byte_of(document)};
    if (!has_field) return {.fault = fmt::format("the record has no field \"{}\"", name), .byte = 0};
    return found;
  }

 private:
  JsonText fault(simdjson::error_code error, ondemand::document* document) {
    if (error == simdjson::UNCLOSED_STRING)
      return {.fault = "not JSON: a string does not close", .byte = size_};
    if (error == simdjson::CAPACITY) return {.fault = "longer than 4 GiB", .byte = 0};
    return {.fault = "not JSON: " + sentence_of(error), .byte = document ? byte_of(*document) : 0};
  }
  std::string string_fault(simdjson::error_code error, size_t begin) const {
    bool lone = false;
    for_each_lone_surrogate(std::string_view(padded_).substr(0, size_),
                            [&](size_t at) { lone |= at > begin; });
    return lone ? "an escape of half a surrogate pair, which is no character"
                : "not JSON: " + sentence_of(error);
  }
  size_t byte_of(ondemand::document& document) const {
    const char* at = nullptr;
    if (document.current_location().get(at) != simdjson::SUCCESS || at < padded_.data()) return size_;
    return std::min(size_, size_t(at - padded_.data()));
  }

  std::string& padded_;
  size_t size_;
};

}  // namespace

JsonText json_text(std::string_view record, std::string_view name, LoneSurrogates surrogates) {
  std::string padded;
  padded.reserve(record.size() + simdjson::SIMDJSON_PADDING);
  padded = record;
  if (surrogates == LoneSurrogates::kReplace)
    for_each_lone_surrogate(record, [&](size_t at) { padded.replace(at, 4, "fffd"); });
  padded.resize(record.size() + simdjson::SIMDJSON_PADDING, ' ');
  return Record(padded, record.size()).text_of(name);
}

}  // namespace spanwise
