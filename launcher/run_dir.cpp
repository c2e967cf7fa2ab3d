#include "launcher/run_dir.h"

#include <system_error>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/config/derived.h"
#include "launcher/config/upgrade.h"
#include "launcher/metrics/history.h"

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

RunConfig recorded_config(const fs::path& run_dir, const std::vector<std::string>& overrides) {
  try {
    return load_config((run_dir / kConfigName).string(), overrides);
  } catch (const OldConfig&) {
    throw OldConfig(run_dir);
  }
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
  // A rank that does not see the checkpoint may still have the run's config.
  fs::path place = fs::weakly_canonical(checkpoint, error);
  if (place.filename().empty()) place = place.parent_path();  // step_…/
  const fs::path run_dir = place.parent_path().parent_path();
  if (!error && is_there(run_dir / kConfigName)) return run_dir;
  fail_user(
      "{} is a checkpoint, but no run directory with a {} is two levels above it; name the run's directory "
      "or config, "
      "and the "
      "checkpoint with --checkpoint",
      checkpoint.string(), kConfigName);
}

RunConfig load_run_dir(const fs::path& run_dir, const std::vector<std::string>& overrides) {
  std::vector<std::string> all = {"run.dir=" + run_dir.string()};
  all.insert(all.end(), overrides.begin(), overrides.end());
  RunConfig config = recorded_config(run_dir, all);
  config::TokenizerConfig& tokenizer = *config.mutable_data()->mutable_tokenizer();
  const fs::path copy = run_dir / kTokenizerName;
  if (tokenizer.kind() == config::TokenizerConfig::SENTENCEPIECE && !overrides_tokenizer(overrides) &&
      is_there(copy)) {
    tokenizer.set_model(copy.string());
  }
  return config;
}

TokenizerCopy tokenizer_copy(const RunConfig& config) {
  const config::TokenizerConfig& tokenizer = config.data().tokenizer();
  if (tokenizer.kind() != config::TokenizerConfig::SENTENCEPIECE) return TokenizerCopy::kSame;
  const fs::path copy = tokenizer_path(config.run().dir());
  if (!is_there(copy)) return TokenizerCopy::kNone;
  return read_file(copy) == read_file(tokenizer.model()) ? TokenizerCopy::kSame : TokenizerCopy::kOther;
}

fs::path tokenizer_path(const fs::path& run_dir) {
  return run_dir / kTokenizerName;
}

std::string keep_tokenizer(const RunConfig& config, int64_t step) {
  const TokenizerCopy there = tokenizer_copy(config);
  if (there == TokenizerCopy::kSame) return "";
  const fs::path copy = tokenizer_path(config.run().dir());
  std::string text;
  if (there == TokenizerCopy::kOther) {
    const fs::path before = unused_path(copy, fmt::format(".before-step_{:08}", step));
    write_file(before, read_file(copy));
    text = fmt::format("{} is the tokenizer of this start now, the former one is {}", copy.string(),
                       before.string());
  }
  replace_file(copy, read_file(config.data().tokenizer().model()));
  return text;
}

std::string lacking_tokenizer(const RunConfig& config) {
  const fs::path run_dir = config.run().dir();
  if (!is_there(run_dir / kConfigName) || tokenizer_copy(config) != TokenizerCopy::kNone) return "";
  return fmt::format("{} has no {} of its own, as a run of an older version: {} is read", run_dir.string(),
                     kTokenizerName, config.data().tokenizer().model());
}

}  // namespace spanwise
