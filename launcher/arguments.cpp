#include "launcher/arguments.h"

#include <getopt.h>

#include <algorithm>
#include <charconv>

#include "launcher/words.h"

namespace spanwise {

namespace {

// "spanwise data" of "[mpirun -n RANKS] spanwise data prepare …".
std::string command_name(const Usage& usage) {
  const size_t begin = usage.command.find("spanwise "), verb = begin + std::string_view("spanwise ").size();
  return usage.command.substr(begin, usage.command.find_first_of(" \n", verb) - begin);
}

std::string did_you_mean(const std::string& near) {
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
}

std::string more(const Usage& usage) {
  return fmt::format(" '{} --help' lists what it takes.", command_name(usage));
}

[[noreturn]] void fail_option(const Usage& usage, std::string given) {
  given = given.substr(0, given.find('='));
  std::vector<std::string> names, begun;
  for (const OptionSpec& spec : usage.options) {
    names.push_back(fmt::format("--{}", spec.name));
    if (given.size() > 2 && names.back().starts_with(given)) begun.push_back(names.back());
  }
  for (const OptionSpec& spec : usage.options) {
    if (!spec.value && given == fmt::format("--{}", spec.name)) fail_usage("{} takes no value.", given);
  }
  if (begun.size() > 1) fail_usage("'{}' may be {}; write it out.", given, fmt::join(begun, " or "));
  const std::string near = nearest_word(given, names);
  fail_usage("'{}' has no option '{}'{}{}", command_name(usage), given,
             near.empty() ? "." : did_you_mean(near), more(usage));
}

}  // namespace

std::string Usage::text(size_t columns) const {
  constexpr size_t kIndent = 29;
  std::string text = fmt::format("usage: {}\n\n{}", command, wrap_words("", description, 0, columns));
  if (!options.empty()) text += "\n";
  for (const OptionSpec& option : options) {
    const std::string left =
        option.value ? fmt::format("--{} {}", option.name, option.value) : fmt::format("--{}", option.name);
    text += wrap_words(fmt::format("  {:<26} ", left), option.help, kIndent, columns);
  }
  return text;
}

Arguments::Arguments(const Usage& usage, const std::vector<std::string>& args, const std::string& program)
    : program_(program) {
  parse_options(usage, args);
  if (!has("help")) check_positional(usage);
}

void Arguments::parse_options(const Usage& usage, const std::vector<std::string>& args) {
  // Each option has a value of its own: abbreviations of options with the same one would not be ambiguous.
  constexpr int kFirst = 1000;
  std::vector<option> longs;
  for (const OptionSpec& spec : usage.options) {
    longs.push_back(
        {spec.name, spec.value ? required_argument : no_argument, nullptr, kFirst + int(longs.size())});
  }
  longs.push_back({});
  std::vector<std::string> copies = args;
  std::string name = "spanwise";
  std::vector<char*> argv{name.data()};
  for (std::string& arg : copies) argv.push_back(arg.data());
  argv.push_back(nullptr);

  optind = 0;  // glibc: start over
  opterr = 0;
  int code = 0;
  // '-' keeps the order and gives positional arguments as option 1; ':' tells a missing value from an unknown
  // option.
  while ((code = getopt_long(int(argv.size()) - 1, argv.data(), "-:", longs.data(), nullptr)) != -1) {
    if (code >= kFirst) {
      values_[usage.options[size_t(code - kFirst)].name].push_back(optarg ? optarg : "");
    } else if (code == 1) {
      positional_.push_back(optarg);
    } else if (code == ':') {
      fail_usage("A value is missing after '{}'.{}", argv[optind - 1], more(usage));
    } else {
      fail_option(usage, optopt > 0 && optopt < kFirst && argv[optind - 1][1] != '-'
                             ? fmt::format("-{}", char(optopt))
                             : argv[optind - 1]);
    }
  }
  for (int i = optind; i < int(argv.size()) - 1; ++i) positional_.push_back(argv[i]);
}

void Arguments::check_positional(const Usage& usage) const {
  const size_t count = positional_.size();
  if (!usage.actions.empty() && count > 0) {
    std::vector<std::string> names;
    for (const ActionSpec& action : usage.actions) names.push_back(action.name);
    const auto found = std::find(names.begin(), names.end(), positional_[0]);
    if (found == names.end()) {
      const std::string near = nearest_word(positional_[0], names);
      fail_usage("'{} {}' is nothing that can be done{}{}", command_name(usage), positional_[0],
                 near.empty() ? "." : did_you_mean(near), more(usage));
    }
    const ActionSpec& action = usage.actions[size_t(found - names.begin())];
    if (count - 1 < action.min_words)
      fail_usage("'{} {}' needs {}.{}", command_name(usage), action.name, action.takes, more(usage));
    if (count - 1 > action.max_words)
      fail_usage("'{} {}' takes {} and nothing more; '{}' is too much.{}", command_name(usage), action.name,
                 *action.takes ? action.takes : "no words", positional_[1 + action.max_words], more(usage));
    return;
  }
  if (count < usage.min_positional) fail_usage("An argument is missing: {}.{}", usage.command, more(usage));
  if (count > usage.max_positional)
    fail_usage("'{}' is one argument too many for '{}'.{}", positional_[usage.max_positional],
               command_name(usage), more(usage));
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
    fail_usage("--{} {}: expected a number from {} to {}.", name, text, low, high);
  }
  return value;
}

int64_t Arguments::integer(const std::string& name, int64_t fallback, int64_t low, int64_t high) const {
  if (!has(name)) return fallback;
  const std::string text = get(name);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    fail_usage("--{} {}: expected a whole number from {} to {}.", name, text, low, high);
  }
  return value;
}

}  // namespace spanwise
