#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/config/config.h"
#include "launcher/config/text.h"

namespace spanwise {

namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

/// Takes what TextFormat finds in text that check_message_text accepts.
class Collector : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    problems.push_back({line + 1, column + 1, message});
  }
  std::vector<TextProblem> problems;
};

/// Merges text into `message`, whose place in the config is `path`; returns the problems, and merges nothing
/// if there are any.
std::vector<TextProblem> merge_text(const std::string& text, const std::string& path, Message& message) {
  auto problems = check_message_text(text, *message.GetDescriptor(), path, *RunConfig::descriptor());
  if (!problems.empty()) return problems;
  Collector collector;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&collector);
  parser.MergeFromString(text, &message);
  return collector.problems;
}

/// One override, "path.to.field=value".
class Override {
 public:
  Override(const std::string& text, std::set<std::string>& replaced_lists)
      : text_(text), replaced_lists_(replaced_lists) {}

  /// Sets the field; returns what is wrong instead, one line each.
  std::vector<std::string> apply(RunConfig& config) {
    const size_t equals = text_.find('=');
    if (equals == std::string::npos || equals == 0) {
      return {line("an override is path.to.field=value, e.g. train.steps=100")};
    }
    path_ = text_.substr(0, equals);
    value_ = text_.substr(equals + 1);
    if (!resolve(config)) return problems_;
    if (value_.empty()) {
      clear();
    } else if (field_->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !is_quoted()) {
      set_plain_text();
    } else {
      set_value();
    }
    return problems_;
  }

 private:
  std::string line(const std::string& problem) const { return "--set " + text_ + ": " + problem; }

  /// Finds the message and the field that the path names.
  bool resolve(RunConfig& config) {
    message_ = &config;
    const Descriptor& root = *RunConfig::descriptor();
    std::string group;
    for (size_t begin = 0, end = 0; end < path_.size(); begin = end + 1) {
      end = std::min(path_.find('.', begin), path_.size());
      const std::string name = path_.substr(begin, end - begin);
      field_ = message_->GetDescriptor()->FindFieldByName(name);
      if (!field_) {
        problems_ = {line(unknown_field(*message_->GetDescriptor(), group, name, root))};
        return false;
      }
      group = path_.substr(0, end);
      if (end == path_.size()) break;
      if (!field_->message_type() || field_->is_repeated()) {
        problems_ = {line(field_->is_repeated()
                              ? fmt::format("{0} is a list; add whole entries, --set '{0}={{...}}'", group)
                              : fmt::format("{} is a single value and has no fields of its own", group))};
        return false;
      }
      message_ = message_->GetReflection()->MutableMessage(message_, field_);
    }
    return true;
  }

  bool is_quoted() const {
    return value_.size() >= 2 && value_.front() == value_.back() && (value_[0] == '"' || value_[0] == '\'');
  }

  void clear() {
    message_->GetReflection()->ClearField(message_, field_);
    if (field_->is_repeated()) replaced_lists_.insert(path_);
  }

  /// The first entry that is given takes the place of the config's list; the next ones are added.
  void begin_list() {
    if (field_->is_repeated() && replaced_lists_.insert(path_).second) {
      message_->GetReflection()->ClearField(message_, field_);
    }
  }

  void set_plain_text() {
    begin_list();
    if (field_->is_repeated()) {
      message_->GetReflection()->AddString(message_, field_, value_);
    } else {
      message_->GetReflection()->SetString(message_, field_, value_);
    }
  }

  void set_value() {
    for (const TextProblem& problem : check_value_text(value_, *field_, path_, *RunConfig::descriptor())) {
      problems_.push_back(line(problem.message));
    }
    if (!problems_.empty()) return;
    begin_list();
    const size_t dot = path_.rfind('.');
    const std::string group = dot == std::string::npos ? "" : path_.substr(0, dot);
    for (const TextProblem& problem : merge_text(field_->name() + ": " + value_, group, *message_)) {
      problems_.push_back(line(problem.message));
    }
  }

  const std::string& text_;
  std::set<std::string>& replaced_lists_;
  std::string path_, value_;
  Message* message_ = nullptr;
  const FieldDescriptor* field_ = nullptr;
  std::vector<std::string> problems_;
};

}  // namespace

RunConfig parse_config(const std::string& text, const std::string& name,
                       const std::vector<std::string>& overrides) {
  RunConfig config;
  std::string problems;
  for (const TextProblem& problem : merge_text(text, "", config)) {
    problems += fmt::format("{}:{}:{}: {}\n", name, problem.line, problem.column, problem.message);
  }
  std::set<std::string> replaced_lists;
  for (const std::string& text : overrides) {
    for (const std::string& problem : Override(text, replaced_lists).apply(config))
      problems += problem + "\n";
  }
  if (problems.empty()) return config;
  problems.pop_back();
  throw UserError(problems);
}

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_config(read_file(path), path, overrides);
}

}  // namespace spanwise
