#pragma once
// A run directory and what it holds, wherever it was moved to: config.textproto, tokenizer.model,
// checkpoints.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launcher/config/config.h"

namespace spanwise {

/// Whether `path` is a directory that has a checkpoint's manifest.
bool is_checkpoint(const std::filesystem::path& path);

/// Where the run in `run_dir` keeps its checkpoints.
std::filesystem::path checkpoints_of_run(const std::filesystem::path& run_dir);

/// The run directory that a checkpoint lies in, RUN/checkpoints/step_…. UserError naming the way out if there
/// is no config in RUN.
std::filesystem::path run_of_checkpoint(const std::filesystem::path& checkpoint);

/// The config of a run directory with `overrides`, which may name another run.dir. The run's own copy of the
/// tokenizer takes the place of the path in the config, unless an override names one.
RunConfig load_run_dir(const std::filesystem::path& run_dir, const std::vector<std::string>& overrides);

/// What run.dir holds of the tokenizer that the config names: the same content, which stands for no file to
/// copy as well; none; another one.
enum class TokenizerCopy { kSame, kNone, kOther };
TokenizerCopy tokenizer_copy(const RunConfig& config);

/// Where RUN/tokenizer.model is.
std::filesystem::path tokenizer_path(const std::filesystem::path& run_dir);

/// Copies the config's tokenizer into run.dir, unless it is there. Another one that is there, which older
/// checkpoints may need, stays under another name; a line to say so, else empty.
std::string keep_tokenizer(const RunConfig& config, int64_t step);

/// A line for a run directory that is older than copies of tokenizers, or has lost its own, where the config
/// reads the tokenizer from elsewhere; empty for any other.
std::string lacking_tokenizer(const RunConfig& config);

}  // namespace spanwise
