// spanwise config print CONFIG [--set …]   spanwise config help [FIELD]   spanwise config upgrade
// CONFIG|RUN_DIR

#include <filesystem>
#include <iostream>
#include <optional>

#include "core/file_io.h"
#include "launcher/arguments.h"
#include "launcher/config/config.h"
#include "launcher/config/derived.h"
#include "launcher/config/upgrade.h"
#include "launcher/metrics/history.h"
#include "launcher/objects.h"
#include "launcher/run_lock.h"
#include "launcher/run_setup.h"
#include "launcher/runtime.h"
#include "launcher/verb.h"

namespace spanwise {

namespace {

namespace fs = std::filesystem;

// As comments, so that what is printed is a config.
std::string derived_text(const RunConfig& config, int ranks, int threads) {
  std::optional<int64_t> vocab_size;
  const auto& tokenizer = config.data().tokenizer();
  if (tokenizer.kind() == config::TokenizerConfig::BYTES || fs::exists(tokenizer.model()))
    vocab_size = make_tokenizer(tokenizer)->vocab_size();
  const std::vector<DerivedValue> values = derived_values(config, ranks, threads, vocab_size);
  if (values.empty()) return "";
  std::string text = fmt::format("\n# What 0 and empty texts above stand for on {} rank{} of this machine:\n",
                                 ranks, ranks == 1 ? "" : "s");
  for (const DerivedValue& value : values) text += fmt::format("#   {}: {}\n", value.path, value.value);
  return text;
}

// A run's config is replaced, under the lock that a training has.
void upgrade_run(const fs::path& run_dir) {
  const DirectoryLock lock(run_dir, "run.dir");
  const fs::path file = run_dir / "config.textproto";
  const std::string text = read_file(file), upgraded = upgraded_config(text, file.string());
  if (upgraded == text) {
    std::cout << fmt::format("{} is in today's form.\n", file.string());
    return;
  }
  const fs::path before = unused_path(file, ".before-upgrade");
  write_file(before, text);
  replace_file(file, upgraded);
  std::cout << fmt::format(
      "{} is in today's form now, without comments below its first lines; the old one is {}.\n",
      file.string(), before.string());
}

void upgrade(const fs::path& where) {
  if (fs::is_directory(where)) return upgrade_run(where);
  const std::string text = read_file(where), upgraded = upgraded_config(text, where.string());
  std::cout << upgraded << std::flush;
  std::cerr << (upgraded == text
                    ? fmt::format("{} is in today's form.\n", where.string())
                    : fmt::format("Comments of {} below its first lines are not in it.\n", where.string()));
}

}  // namespace

Usage config_usage() {
  return {
      .command =
          "spanwise config print CONFIG [--set FIELD=VALUE …]\n       spanwise config help [FIELD]\n"
          "       spanwise config upgrade CONFIG|RUN_DIR",
      .description =
          "print: the config with every default written out, checked for this many ranks.\n"
          "help: fields with types, defaults and meaning; FIELD narrows it, as in 'optimizer' or "
          "'model.layer.L.mamba2'.\n"
          "upgrade: a config of an older form in today's, for `spanwise config upgrade OLD > NEW`; of a run "
          "directory "
          "the config is replaced, and the old one stays beside it. Comments are lost but for those at the "
          "beginning.",
      .options = {{"set", "FIELD=VALUE", "override a field; may be repeated"},
                  {"help", nullptr, "this text"}},
      .min_positional = 1,
      .max_positional = 2,
      .actions = {{"print", "CONFIG", 1, 1}, {"help", "FIELD", 0, 1}, {"upgrade", "CONFIG|RUN_DIR", 1, 1}}};
}

int run_config(Comm& world, const Arguments& arguments) {
  const auto& words = arguments.positional();
  if (words[0] == "help") {
    const std::string text = config_help(words.size() > 1 ? words[1] : "");
    if (world.rank() == 0) std::cout << text;
    return 0;
  }
  if (words[0] == "upgrade") {
    if (world.rank() == 0) upgrade(words[1]);
    return 0;
  }
  const RunConfig config = load_config(words[1], arguments.all("set"));
  say_warnings(config, world);
  validate(config, world.size());
  const int threads = threads_of_rank(config.train().threads(), world);
  if (world.rank() == 0) std::cout << print_config(config) << derived_text(config, world.size(), threads);
  return 0;
}

}  // namespace spanwise
