#pragma once
// A run directory and what it holds, wherever it was moved to: config.textproto, tokenizer.model,
// checkpoints.

#include <filesystem>
#include <string>
#include <vector>

#include "launcher/config.h"

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

/// Copies the config's tokenizer into run.dir, unless it is there; what another one left is replaced.
void keep_tokenizer(const RunConfig& config);

}  // namespace spanwise
