#pragma once
// What config_problems looks at, by subject.

#include <cstdint>
#include <optional>
#include <string>

#include "launcher/config/config.h"
#include "launcher/config/problems.h"

namespace spanwise {

/// Limit of an axis of ranks, so that the product of three fits.
constexpr int64_t kMostRanks = 1'000'000;

struct ConfigToCheck {
  const RunConfig& config;
  int world_size;
  std::optional<int64_t> tokenizer_vocab_size;
  ConfigUse use;
  bool trains() const { return use != ConfigUse::kInference; }
};

/// run, device, metrics.
void check_run(const ConfigToCheck& checked, Problems& problems);
/// train, recomputation included.
void check_train(const ConfigToCheck& checked, Problems& problems);
/// data, optimizer, checkpoint.
void check_data(const ConfigToCheck& checked, Problems& problems);
void check_optimizer(const config::RunConfig& config, Problems& problems);
void check_checkpoint(const config::RunConfig& config, Problems& problems);
/// parallel, and how ranks divide the batch.
void check_layout(const ConfigToCheck& checked, Problems& problems);
/// model, its layers, and how ranks divide their heads.
void check_model(const RunConfig& config, Problems& problems);

/// What the GPU's kernels do not take of a config's sizes (core/ops/gpu_limits.h). For a config that computes
/// on a GPU and whose model and layout have no problems.
void check_gpu(const RunConfig& config, Problems& problems);

}  // namespace spanwise
