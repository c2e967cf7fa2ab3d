#pragma once
// A verb's command line, parsed by getopt_long: `spanwise VERB positional… --name value --flag`.
//
// What a verb takes is data, a Usage: parsing, --help, the man page and shell completion (program_text.h)
// come from it, so none of them can miss an option.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/check.h"

namespace spanwise {

/// The command line is wrong: exit code 2.
class UsageError : public UserError {
 public:
  using UserError::UserError;
};

/// Throws UsageError with an fmt-formatted sentence.
template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

struct OptionSpec {
  const char* name;   ///< without the dashes
  const char* value;  ///< what the value is called in the help; nullptr for a flag
  const char* help;
};

/// What may follow a verb as its first word, as in `data inspect PREFIX`.
struct ActionSpec {
  const char* name;
  const char* takes;                    ///< what the words behind it are called; empty if there are none
  size_t min_words = 0, max_words = 0;  ///< behind the action
};

/// What a verb takes.
struct Usage {
  std::string command;      ///< "spanwise eval CONFIG|RUN_DIR"; a line for each action
  std::string description;  ///< one or two sentences
  std::vector<OptionSpec> options;
  size_t min_positional = 0, max_positional = 0;  ///< actions included
  std::vector<ActionSpec> actions = {};           ///< empty: positional arguments are free
  /// What --help prints, in lines of at most `columns`.
  std::string text(size_t columns) const;
};

class Arguments {
 public:
  /// `program` is how the user called the program. UsageError for an unknown option or action, a missing
  /// value or the wrong number of positional arguments, of which none is needed where --help is given.
  Arguments(const Usage& usage, const std::vector<std::string>& args,
            const std::string& program = "spanwise");

  const std::string& program() const { return program_; }
  const std::vector<std::string>& positional() const { return positional_; }
  bool has(const std::string& name) const { return values_.count(name) > 0; }
  /// The last value given, or `fallback`.
  std::string get(const std::string& name, const std::string& fallback = "") const;
  /// Every value given, in order.
  std::vector<std::string> all(const std::string& name) const;
  /// UsageError unless the value is a number in [low, high].
  double number(const std::string& name, double fallback, double low, double high) const;
  int64_t integer(const std::string& name, int64_t fallback, int64_t low, int64_t high) const;

 private:
  void parse_options(const Usage& usage, const std::vector<std::string>& args);
  void check_positional(const Usage& usage) const;

  std::string program_;
  std::vector<std::string> positional_;
  std::map<std::string, std::vector<std::string>> values_;
};

}  // namespace spanwise
