#include "launcher/run_config.h"

#include <filesystem>
#include <map>
#include <optional>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/build_info.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/config/derived.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/upgrade.h"
#include "launcher/config/values.h"
#include "launcher/metrics/history.h"
#include "launcher/run_dir.h"

namespace spanwise {

namespace {

namespace fs = std::filesystem;

std::string file_text(RunConfig config) {
  // What is accepted once is in the next checkpoint; it is no word for later changes.
  config.mutable_checkpoint()->clear_accept_changed();
  return fmt::format("# Resolved config; built from commit {}.\n{}", git_hash(), print_config(config));
}

/// What starts may differ in: not in places of the run and of its tokenizer, of which RUN_DIR has its own,
/// nor in letters without a place in the model.
std::map<std::string, std::string> compared_values(RunConfig config) {
  *config.mutable_model() = with_used_layers(config.model());
  config.mutable_checkpoint()->clear_accept_changed();
  config.mutable_run()->clear_dir();
  config.mutable_data()->mutable_tokenizer()->clear_model();
  std::map<std::string, std::string> values;
  for (const ConfigValue& value : config_values(config)) values[value.path] = value.text;
  return values;
}

/// "train.steps: 240 -> 480, …": from the run's config to this start's.
std::string differences(const RunConfig& recorded, const RunConfig& config) {
  const auto before = compared_values(recorded), now = compared_values(config);
  std::string text;
  const auto add = [&](const std::string& change) { text += (text.empty() ? "" : ", ") + change; };
  for (const auto& [path, value] : now) {
    const auto former = before.find(path);
    if (former == before.end()) {
      add(fmt::format("added: {}: {}", path, value));
    } else if (former->second != value) {
      add(fmt::format("{}: {} -> {}", path, former->second, value));
    }
  }
  for (const auto& [path, value] : before) {
    if (!now.count(path)) add(fmt::format("deleted: {}: {}", path, value));
  }
  return text;
}

/// What the file holds; nothing if it cannot be read, which is said as `problem`. OldConfig if it is of an
/// older form.
std::optional<RunConfig> recorded_config(const fs::path& file, const std::string& run_dir,
                                         std::string& problem) {
  try {
    return load_config(file.string(), {"run.dir=" + run_dir});
  } catch (const OldConfig&) {
    throw OldConfig(run_dir);
  } catch (const UserError& error) {
    problem = error.what();
    return std::nullopt;
  }
}

}  // namespace

std::string record_run_config(const RunConfig& config, int64_t step, SaveConfig save) {
  const fs::path dir = config.run().dir(), file = dir / "config.textproto";
  make_directories(dir);
  if (!fs::exists(fs::symlink_status(file))) {
    const std::string said = keep_tokenizer(config, step);
    replace_file(file, file_text(config));
    return said;
  }
  std::string problem;
  const std::optional<RunConfig> recorded = recorded_config(file, dir.string(), problem);
  std::string changes = recorded ? differences(*recorded, config) : problem;
  const TokenizerCopy copy = tokenizer_copy(config);
  if (copy == TokenizerCopy::kOther)
    changes += fmt::format("{}the tokenizer {} is another than {}", changes.empty() ? "" : ", ",
                           config.data().tokenizer().model(), tokenizer_path(dir).string());
  const bool begins = !recorded || (step == 0 && list_checkpoints(checkpoint_dir(*recorded)).empty());
  const bool becomes_the_runs = begins || save == SaveConfig::kThisStart;
  // Where the run has no copy, only the file that its config names is known to be its tokenizer.
  const bool names_the_runs =
      recorded && recorded->data().tokenizer().model() == config.data().tokenizer().model();
  std::string said = lacking_tokenizer(config);
  if (becomes_the_runs || (copy == TokenizerCopy::kNone && names_the_runs)) {
    const std::string kept = keep_tokenizer(config, step);
    if (copy == TokenizerCopy::kNone) said += fmt::format(", and copied to {}", tokenizer_path(dir).string());
    said += kept;
  }
  if (changes.empty()) return said;
  if (!said.empty()) said += ". ";
  if (becomes_the_runs) {
    const fs::path before = unused_path(file, fmt::format(".before-step_{:08}", step));
    write_file(before, read_file(file));
    replace_file(file, file_text(config));
    return said + fmt::format("{} has the settings of this start now, the former ones are in {} ({})",
                              file.string(), before.string(), changes);
  }
  make_directories(dir / "starts");
  const fs::path start = unused_path(dir / "starts" / fmt::format("config_step_{:08}", step), "");
  write_file(start, file_text(config));
  return said + fmt::format(
                    "this start differs from {}: {}. That holds for this start and is kept in {}; "
                    "--save-config makes it the run's.",
                    file.string(), changes, start.string());
}

}  // namespace spanwise
