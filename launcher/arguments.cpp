#include "launcher/arguments.h"

#include <getopt.h>

#include <charconv>

#include "core/check.h"

namespace spanwise {

std::string Usage::text() const {
  std::string text = fmt::format("usage: {}\n\n{}\n", command, description);
  if (!options.empty()) text += "\n";
  for (const OptionSpec& option : options) {
    const std::string left =
        option.value ? fmt::format("--{} {}", option.name, option.value) : fmt::format("--{}", option.name);
    text += fmt::format("  {:<26} {}\n", left, option.help);
  }
  return text;
}

Arguments::Arguments(const Usage& usage, const std::vector<std::string>& args) {
  std::vector<option> longs;
  for (const OptionSpec& spec : usage.options) {
    longs.push_back({spec.name, spec.value ? required_argument : no_argument, nullptr, 0});
  }
  longs.push_back({});
  std::vector<std::string> copies = args;
  std::string program = "spanwise";
  std::vector<char*> argv{program.data()};
  for (std::string& arg : copies) argv.push_back(arg.data());
  argv.push_back(nullptr);

  optind = 0;  // glibc: start over
  opterr = 0;
  int index = 0, code = 0;
  // '-' keeps the order and gives positional arguments as option 1; ':' tells a missing value from an unknown
  // option.
  while ((code = getopt_long(int(argv.size()) - 1, argv.data(), "-:", longs.data(), &index)) != -1) {
    if (code == 0) {
      values_[usage.options[index].name].push_back(optarg ? optarg : "");
    } else if (code == 1) {
      positional_.push_back(optarg);
    } else {
      const std::string given = argv[optind - 1];
      fail_user("{} '{}'.\n{}", code == ':' ? "A value is missing after" : "There is no option", given,
                usage.text());
    }
  }
  for (int i = optind; i < int(argv.size()) - 1; ++i) positional_.push_back(argv[i]);
  if (positional_.size() < usage.min_positional || positional_.size() > usage.max_positional) {
    fail_user("{} {}.\n{}",
              positional_.size() < usage.min_positional ? "An argument is missing after"
                                                        : "There are too many arguments:",
              positional_.empty() ? "the verb" : "'" + positional_.back() + "'", usage.text());
  }
}

std::string Arguments::get(const std::string& name, const std::string& fallback) const {
  const auto it = values_.find(name);
  return it == values_.end() ? fallback : it->second.back();
}

std::vector<std::string> Arguments::all(const std::string& name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? std::vector<std::string>{} : it->second;
}

double Arguments::number(const std::string& name, double fallback, double low, double high) const {
  if (!has(name)) return fallback;
  const std::string text = get(name);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high)) {
    fail_user("--{} {}: expected a number from {} to {}.", name, text, low, high);
  }
  return value;
}

int64_t Arguments::integer(const std::string& name, int64_t fallback, int64_t low, int64_t high) const {
  if (!has(name)) return fallback;
  const std::string text = get(name);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    fail_user("--{} {}: expected a whole number from {} to {}.", name, text, low, high);
  }
  return value;
}

}  // namespace spanwise
