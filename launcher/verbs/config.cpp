// spanwise config print CONFIG [--set …]   spanwise config help [PATH]

#include <iostream>

#include "launcher/arguments.h"
#include "launcher/config.h"
#include "launcher/verb.h"

namespace spanwise {

int run_config(Comm& world, const std::vector<std::string>& args) {
  const Usage usage{
      .command = "spanwise config print CONFIG [--set FIELD=VALUE …]\n       spanwise config help [FIELD]",
      .description =
          "print: the config with every default written out, checked for this many ranks.\n"
          "help: fields with types, defaults and meaning; FIELD narrows it, as in 'optimizer'.",
      .options = {{"set", "FIELD=VALUE", "override a field; may be repeated"},
                  {"help", nullptr, "this text"}},
      .min_positional = 0,
      .max_positional = 2};
  const Arguments arguments(usage, args);
  const auto& words = arguments.positional();
  if (const auto code = print_usage(usage, arguments, world)) return *code;
  if (words[0] == "help") {
    const std::string text = config_help(words.size() > 1 ? words[1] : "");
    if (world.rank() == 0) std::cout << text;
    return 0;
  }
  if (words[0] != "print" || words.size() != 2) {
    fail_user("'spanwise config {}' is not complete.\n{}", words[0], usage.text());
  }
  const RunConfig config = load_config(words[1], arguments.all("set"));
  validate(config, world.size());
  if (world.rank() == 0) std::cout << print_config(config);
  return 0;
}

}  // namespace spanwise
