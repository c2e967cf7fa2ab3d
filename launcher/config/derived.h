#pragma once
// What the zeros and empty texts of a config stand for. Only for configs without config_problems.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "configs/run_config.pb.h"

namespace spanwise {

/// Ranks on the data axis of `world_size` ranks.
int64_t data_ranks(const config::ParallelConfig& parallel, int world_size);
/// Forward and backward passes of one optimizer step on one rank.
int64_t accumulation_passes(const config::RunConfig& config, int world_size);

/// Channels inside SwiGLU.
int64_t intermediate_size(const config::ModelConfig& model);

/// The model with used_layers (layer_list.h) alone, and what the zeros of its sizes stand for.
config::ModelConfig resolved_model(const config::ModelConfig& model, int64_t vocab_size);

uint64_t init_seed(const config::RunConfig& config);
uint64_t data_seed(const config::RunConfig& config);

/// Steps the learning-rate schedule spans.
int64_t schedule_steps(const config::RunConfig& config);
/// Last steps of the schedule in which WSD decays.
int64_t decay_steps(const config::RunConfig& config);

/// Tokens whose logits exist at a time in the loss over a whole vocabulary.
int64_t loss_chunk_tokens(const config::RunConfig& config, int64_t vocabulary);

std::string checkpoint_dir(const config::RunConfig& config);

struct DerivedValue {
  std::string path;   ///< "parallel.data"
  std::string value;  ///< what its 0 or empty text stands for
};
/// What every 0 and empty text in the config stands for on `world_size` ranks of `threads` threads, fields
/// without effect left out; `vocab_size` is the tokenizer's, where it is known.
std::vector<DerivedValue> derived_values(const config::RunConfig& config, int world_size, int threads,
                                         std::optional<int64_t> vocab_size);

}  // namespace spanwise
