// spanwise config print CONFIG [--set …]   spanwise config help [PATH]

#include <iostream>

#include "launcher/arguments.h"
#include "launcher/config.h"
#include "launcher/verb.h"

namespace spanwise {

Usage config_usage() {
  return {
      .command = "spanwise config print CONFIG [--set FIELD=VALUE …]\n       spanwise config help [FIELD]",
      .description =
          "print: the config with every default written out, checked for this many ranks.\n"
          "help: fields with types, defaults and meaning; FIELD narrows it, as in 'optimizer'.",
      .options = {{"set", "FIELD=VALUE", "override a field; may be repeated"},
                  {"help", nullptr, "this text"}},
      .min_positional = 1,
      .max_positional = 2,
      .actions = {{"print", "CONFIG", 1, 1}, {"help", "FIELD", 0, 1}}};
}

int run_config(Comm& world, const Arguments& arguments) {
  const auto& words = arguments.positional();
  if (words[0] == "help") {
    const std::string text = config_help(words.size() > 1 ? words[1] : "");
    if (world.rank() == 0) std::cout << text;
    return 0;
  }
  const RunConfig config = load_config(words[1], arguments.all("set"));
  validate(config, world.size());
  if (world.rank() == 0) std::cout << print_config(config);
  return 0;
}

}  // namespace spanwise
