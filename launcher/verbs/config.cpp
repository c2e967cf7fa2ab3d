// spanwise config print CONFIG [--set …]   spanwise config help [PATH]

#include <filesystem>
#include <iostream>
#include <optional>

#include "launcher/arguments.h"
#include "launcher/config/config.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"
#include "launcher/runtime.h"
#include "launcher/verb.h"

namespace spanwise {

namespace {

// As comments, so that what is printed is a config.
std::string derived_text(const RunConfig& config, int ranks, int threads) {
  std::optional<int64_t> vocab_size;
  const auto& tokenizer = config.data().tokenizer();
  if (tokenizer.kind() == config::TokenizerConfig::BYTES || std::filesystem::exists(tokenizer.model()))
    vocab_size = make_tokenizer(tokenizer)->vocab_size();
  const std::vector<DerivedValue> values = derived_values(config, ranks, threads, vocab_size);
  if (values.empty()) return "";
  std::string text = fmt::format("\n# What 0 and empty texts above stand for on {} rank{} of this machine:\n",
                                 ranks, ranks == 1 ? "" : "s");
  for (const DerivedValue& value : values) text += fmt::format("#   {}: {}\n", value.path, value.value);
  return text;
}

}  // namespace

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
  const int threads = threads_of_rank(config.train().threads(), world);
  if (world.rank() == 0) std::cout << print_config(config) << derived_text(config, world.size(), threads);
  return 0;
}

}  // namespace spanwise
