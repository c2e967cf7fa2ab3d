#include "launcher/config/text.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>

namespace spanwise {

namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::OneofDescriptor;
using google::protobuf::io::Tokenizer;

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : std::string(separator)) + word;
  return text;
}

std::string join_path(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

void find_by_name(const Descriptor& message, const std::string& path, const std::string& name,
                  std::vector<std::string>& found) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    if (field.name() == name) found.push_back(fmt::format("'{}'", join_path(path, name)));
    if (field.message_type() && !field.real_containing_oneof())
      find_by_name(*field.message_type(), join_path(path, field.name()), name, found);
  }
  for (int i = 0; i < message.real_oneof_decl_count(); ++i) {
    const OneofDescriptor& choice = *message.oneof_decl(i);
    std::vector<std::string> in_choice;
    for (int j = 0; j < choice.field_count(); ++j) {
      const FieldDescriptor& field = *choice.field(j);
      if (field.message_type())
        find_by_name(*field.message_type(), join_path(path, field.name()), name, in_choice);
    }
    if (in_choice.size() > 1) in_choice = {fmt::format("'{}' of a {} in '{}'", name, choice.name(), path)};
    found.insert(found.end(), in_choice.begin(), in_choice.end());
  }
}

std::string unknown_value(const EnumDescriptor& type, const std::string& path, const std::string& got) {
  std::vector<std::string> values;
  for (int i = 0; i < type.value_count(); ++i) values.push_back(type.value(i)->name());
  std::string upper = got;
  for (char& c : upper) c = char(std::toupper(static_cast<unsigned char>(c)));
  const std::string near = nearest_word(upper, values);
  return fmt::format("{} has no value '{}'; {}it is one of {}", path, got,
                     near.empty() ? "" : fmt::format("did you mean '{}'? ", near), join(values, ", "));
}

/// Thrown where the text has no structure left to go on from.
struct Stop {};

class Checker : private google::protobuf::io::ErrorCollector {
 public:
  Checker(const std::string& text, const Descriptor& root)
      : stream_(text.data(), int(text.size())), tokenizer_(&stream_, this), root_(root) {
    tokenizer_.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
    tokenizer_.set_allow_f_after_float(true);
    tokenizer_.set_require_space_after_number(false);
    tokenizer_.Next();
  }

  void check_fields_to_end(const Descriptor& message, const std::string& path) {
    try {
      while (token().type != Tokenizer::TYPE_END) check_field(message, path, path);
    } catch (const Stop&) {
    }
  }

  void check_one_value(const FieldDescriptor& field, const std::string& path) {
    try {
      check_value(field, path, path);
      if (token().type != Tokenizer::TYPE_END)
        report(fmt::format("{} takes one value, then comes {}", path, got()));
    } catch (const Stop&) {
    }
  }

  std::vector<TextProblem> take_problems() {
    // The tokenizer reports what it reads one token ahead.
    std::stable_sort(problems_.begin(), problems_.end(), [](const TextProblem& a, const TextProblem& b) {
      return std::pair(a.line, a.column) < std::pair(b.line, b.column);
    });
    return std::move(problems_);
  }

 private:
  void AddError(int line, int column, const std::string& message) override {
    problems_.push_back({line + 1, column + 1, message});
  }

  const Tokenizer::Token& token() { return tokenizer_.current(); }
  bool at(std::string_view text) { return token().text == text && token().type != Tokenizer::TYPE_STRING; }
  bool take(std::string_view text) {
    if (!at(text)) return false;
    tokenizer_.Next();
    return true;
  }
  std::string got() {
    return token().type == Tokenizer::TYPE_END ? "the end" : fmt::format("'{}'", token().text);
  }
  void report(const std::string& message) { AddError(token().line, token().column, message); }
  [[noreturn]] void stop(const std::string& message) {
    report(message);
    throw Stop{};
  }

  /// `path` names the place to the reader; `place` also numbers list entries, so that it is unique.
  void check_field(const Descriptor& message, const std::string& path, const std::string& place) {
    if (token().type != Tokenizer::TYPE_IDENTIFIER)
      stop(fmt::format("expected a field's name, got {}", got()));
    const Tokenizer::Token name = token();
    tokenizer_.Next();
    const FieldDescriptor* field = message.FindFieldByName(name.text);
    if (!field) {
      AddError(name.line, name.column, unknown_field(message, path, name.text, root_));
      problems_.back().of_older_form = message.IsReservedName(name.text);
      take(":");
      skip_value();
    } else {
      const std::string field_path = join_path(path, field->name()),
                        field_place = join_path(place, field->name());
      if (!field->is_repeated() && !field->message_type()) check_set_once(name, field_path, field_place);
      if (const auto* choice = field->real_containing_oneof()) check_choice(name, *choice, path, place);
      // Only groups and lists of groups go without a colon.
      if (!take(":") && !field->message_type()) {
        stop(fmt::format("{} needs ':' before its value, got {}", field_path, got()));
      }
      check_values(*field, field_path, field_place);
    }
    if (!take(",")) take(";");
  }

  void check_set_once(const Tokenizer::Token& name, const std::string& path, const std::string& place) {
    const auto [first, is_new] = lines_.emplace(place, name.line + 1);
    if (is_new) return;
    AddError(name.line, name.column,
             fmt::format("{} is already set at line {}; keep one of them", path, first->second));
  }

  void check_choice(const Tokenizer::Token& name, const OneofDescriptor& choice, const std::string& path,
                    const std::string& place) {
    const auto [first, is_new] =
        choices_.emplace(join_path(place, choice.name()), std::pair(name.text, name.line + 1));
    if (is_new || first->second.first == name.text) return;
    AddError(name.line, name.column,
             fmt::format("{} has one {} and it is {}, at line {}; keep one of them", path, choice.name(),
                         first->second.first, first->second.second));
  }

  void check_values(const FieldDescriptor& field, const std::string& path, const std::string& place) {
    if (!field.is_repeated() || !take("[")) return check_value(field, path, entry(field, place));
    while (!take("]")) {
      check_value(field, path, entry(field, place));
      if (!take(",") && !at("]"))
        stop(fmt::format("expected ',' or ']' in the list {}, got {}", path, got()));
    }
  }

  std::string entry(const FieldDescriptor& field, const std::string& place) {
    return field.is_repeated() ? fmt::format("{}[{}]", place, entries_[place]++) : place;
  }

  void check_value(const FieldDescriptor& field, const std::string& path, const std::string& place) {
    if (field.message_type()) return check_group(*field.message_type(), path, place);
    if (at("{") || at("<") || at("[")) {
      report(fmt::format("{} takes {}, got {}", path, what(field), got()));
      return skip_value();
    }
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        return check_text(field, path);
      case FieldDescriptor::CPPTYPE_ENUM:
        return check_enum(field, path);
      case FieldDescriptor::CPPTYPE_BOOL:
        return check_bool(field, path);
      default:
        return check_number(field, path);
    }
  }

  void check_group(const Descriptor& message, const std::string& path, const std::string& place) {
    const std::string_view close = at("<") ? ">" : "}";
    const int line = token().line + 1;
    if (!take("{") && !take("<")) {
      report(fmt::format("{} is a group of fields; write {} {{ ... }}, got {}", path,
                         path.substr(path.rfind('.') + 1), got()));
      return skip_value();
    }
    while (!take(close)) {
      if (token().type == Tokenizer::TYPE_END) {
        stop(fmt::format("expected '{}' that closes {} of line {}, got the end", close, path, line));
      }
      check_field(message, path, place);
    }
  }

  void check_text(const FieldDescriptor& field, const std::string& path) {
    if (token().type != Tokenizer::TYPE_STRING) return wrong_value(field, path);
    while (token().type == Tokenizer::TYPE_STRING) tokenizer_.Next();
  }

  void check_enum(const FieldDescriptor& field, const std::string& path) {
    // Numbers stand for no value here: a config says what it means.
    if (token().type != Tokenizer::TYPE_IDENTIFIER || !field.enum_type()->FindValueByName(token().text)) {
      if (token().type == Tokenizer::TYPE_END) return wrong_value(field, path);
      report(unknown_value(*field.enum_type(), path, token().text));
      return skip_value();
    }
    tokenizer_.Next();
  }

  void check_bool(const FieldDescriptor& field, const std::string& path) {
    if (!at("true") && !at("false")) return wrong_value(field, path);
    tokenizer_.Next();
  }

  void check_number(const FieldDescriptor& field, const std::string& path) {
    const bool negative = at("-");
    const bool real = field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE;
    const bool is_unsigned = field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64;
    if (negative && is_unsigned) return wrong_value(field, path);
    const Tokenizer::Token sign = token();
    take("-");
    if (token().type == Tokenizer::TYPE_INTEGER) {
      const uint64_t signed_limit = uint64_t(std::numeric_limits<int64_t>::max()) + (negative ? 1 : 0);
      uint64_t value = 0;
      if (!real && !Tokenizer::ParseInteger(token().text, is_unsigned ? UINT64_MAX : signed_limit, &value)) {
        AddError(
            sign.line, sign.column,
            fmt::format("{} takes an integer of 64 bits, got {}{}", path, negative ? "-" : "", token().text));
      }
    } else if (!real || (token().type != Tokenizer::TYPE_FLOAT && !at("inf") && !at("nan"))) {
      return wrong_value(field, path);
    }
    tokenizer_.Next();
  }

  static std::string_view what(const FieldDescriptor& field) {
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        return "a text in quotes";
      case FieldDescriptor::CPPTYPE_ENUM:
        return "the name of a choice";
      case FieldDescriptor::CPPTYPE_BOOL:
        return "true or false";
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return "a number";
      case FieldDescriptor::CPPTYPE_UINT64:
        return "an integer from 0";
      default:
        return "an integer";
    }
  }

  void wrong_value(const FieldDescriptor& field, const std::string& path) {
    report(fmt::format("{} takes {}, got {}", path, what(field), got()));
    skip_value();
  }

  /// Goes past one value of any kind, so that checking can go on behind it. The end, and a bracket that
  /// closes something else, stay: they are no value.
  void skip_value() {
    take("-");
    if (token().type == Tokenizer::TYPE_END || at("}") || at(">") || at("]")) return;
    if (token().type == Tokenizer::TYPE_STRING) {
      while (token().type == Tokenizer::TYPE_STRING) tokenizer_.Next();
      return;
    }
    int depth = 0;
    do {
      if (at("{") || at("<") || at("[")) ++depth;
      if (at("}") || at(">") || at("]")) --depth;
    } while (tokenizer_.Next() && depth > 0);
  }

  google::protobuf::io::ArrayInputStream stream_;
  Tokenizer tokenizer_;
  const Descriptor& root_;
  std::vector<TextProblem> problems_;
  std::map<std::string, int> lines_;                            // where a single field was first set
  std::map<std::string, int> entries_;                          // entries of a list so far
  std::map<std::string, std::pair<std::string, int>> choices_;  // what was chosen, and at which line
};

}  // namespace

std::vector<TextProblem> check_message_text(const std::string& text, const Descriptor& message,
                                            const std::string& path, const Descriptor& root) {
  Checker checker(text, root);
  checker.check_fields_to_end(message, path);
  return checker.take_problems();
}

std::vector<TextProblem> check_value_text(const std::string& text, const FieldDescriptor& field,
                                          const std::string& path, const Descriptor& root) {
  Checker checker(text, root);
  checker.check_one_value(field, path);
  return checker.take_problems();
}

namespace {

/// Takes what TextFormat finds in text that check_message_text accepts.
class Collector : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    problems.push_back({line + 1, column + 1, message});
  }
  std::vector<TextProblem> problems;
};

}  // namespace

std::vector<TextProblem> merge_text(const std::string& text, const std::string& path, const Descriptor& root,
                                    google::protobuf::Message& message) {
  auto problems = check_message_text(text, *message.GetDescriptor(), path, root);
  if (!problems.empty()) return problems;
  Collector collector;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&collector);
  parser.MergeFromString(text, &message);
  return collector.problems;
}

std::string unknown_field(const Descriptor& message, const std::string& path, const std::string& name,
                          const Descriptor& root) {
  if (message.IsReservedName(name)) {
    return fmt::format(
        "{} has no field '{}' any more; model.layer says what layers are made of: see `spanwise config "
        "help model.layer`",
        path, name);
  }
  const std::string head = fmt::format("{} has no field '{}'; ", path.empty() ? "the config" : path, name);
  std::vector<std::string> fields, elsewhere;
  for (int i = 0; i < message.field_count(); ++i) fields.push_back(message.field(i)->name());
  find_by_name(root, "", name, elsewhere);
  if (!elsewhere.empty()) return head + "did you mean " + join(elsewhere, " or ") + "?";
  const std::string near = nearest_word(name, fields);
  if (!near.empty()) return head + "did you mean '" + near + "'?";
  return head + "it has " + join(fields, ", ");
}

}  // namespace spanwise
