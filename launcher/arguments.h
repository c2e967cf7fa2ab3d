#pragma once
// A verb's command line, parsed by getopt_long: `spanwise VERB positional… --name value --flag`.

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace spanwise {

struct OptionSpec {
  const char* name;   ///< without the dashes
  const char* value;  ///< what the value is called in the help; nullptr for a flag
  const char* help;
};

/// What a verb takes.
struct Usage {
  std::string command;      ///< "spanwise eval CONFIG|RUN_DIR"
  std::string description;  ///< one or two sentences
  std::vector<OptionSpec> options;
  size_t min_positional = 0, max_positional = 0;
  std::string text() const;  ///< what --help prints
};

class Arguments {
 public:
  /// UserError for an unknown option, a missing value or the wrong number of positional arguments.
  Arguments(const Usage& usage, const std::vector<std::string>& args);

  const std::vector<std::string>& positional() const { return positional_; }
  bool has(const std::string& name) const { return values_.count(name) > 0; }
  /// The last value given, or `fallback`.
  std::string get(const std::string& name, const std::string& fallback = "") const;
  /// Every value given, in order.
  std::vector<std::string> all(const std::string& name) const;
  /// UserError unless the value is a number in [low, high].
  double number(const std::string& name, double fallback, double low, double high) const;
  int64_t integer(const std::string& name, int64_t fallback, int64_t low, int64_t high) const;

 private:
  std::vector<std::string> positional_;
  std::map<std::string, std::vector<std::string>> values_;
};

}  // namespace spanwise
