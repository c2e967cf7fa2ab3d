#include "launcher/run_dir.h"

#include <system_error>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/config_derived.h"

namespace spanwise {

namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.textproto";
constexpr const char* kTokenizerName = "tokenizer.model";

bool is_there(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is named when it is read
  return fs::exists(path, ignored);
}

bool overrides_tokenizer(const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    if (text.starts_with("data.tokenizer")) return true;
  }
  return false;
}

}  // namespace

bool is_checkpoint(const fs::path& path) {
  return is_there(path / kManifestName);
}

fs::path checkpoints_of_run(const fs::path& run_dir) {
  if (!is_there(run_dir / kConfigName)) return run_dir / "checkpoints";
  return checkpoint_dir(load_run_dir(run_dir, {}));
}

fs::path run_of_checkpoint(const fs::path& checkpoint) {
  std::error_code error;
  const fs::path run_dir = fs::canonical(checkpoint, error).parent_path().parent_path();
  if (!error && is_there(run_dir / kConfigName)) return run_dir;
  fail_user(
      "{} is a checkpoint, but no run directory with a {} is two levels above it; name the run's directory or config, "
      "and the "
      "checkpoint with --checkpoint",
      checkpoint.string(), kConfigName);
}

RunConfig load_run_dir(const fs::path& run_dir, const std::vector<std::string>& overrides) {
  std::vector<std::string> all = {"run.dir=" + run_dir.string()};
  all.insert(all.end(), overrides.begin(), overrides.end());
  RunConfig config = load_config((run_dir / kConfigName).string(), all);
  config::TokenizerConfig& tokenizer = *config.mutable_data()->mutable_tokenizer();
  const fs::path copy = run_dir / kTokenizerName;
  if (tokenizer.kind() == config::TokenizerConfig::SENTENCEPIECE && !overrides_tokenizer(overrides) &&
      is_there(copy)) {
    tokenizer.set_model(copy.string());
  }
  return config;
}

void keep_tokenizer(const RunConfig& config) {
  const config::TokenizerConfig& tokenizer = config.data().tokenizer();
  if (tokenizer.kind() != config::TokenizerConfig::SENTENCEPIECE) return;
  const fs::path copy = fs::path(config.run().dir()) / kTokenizerName;
  const std::string content = read_file(tokenizer.model());
  if (is_there(copy) && read_file(copy) == content) return;
  replace_file(copy, content);
}

}  // namespace spanwise
