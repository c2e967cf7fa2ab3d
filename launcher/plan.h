#pragma once
// What a training step of a config needs on one rank of any number of ranks, without running it: bytes of
// memory of the device that it will run on, and bytes received by every collective. The model is built
// without weights, its parameters are laid out as the run would lay them out, and collectives are counted by
// the formulas of their headers (parallel/comm.h, param_store.h, state_exchange.h, attention_exchange.h,
// halo.h).
//
// Rows are taken as one document each. Where documents end inside rows, halos are shorter, and linear layers
// save other states (docs/plan.md); all else is the same for any data.

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/config/config.h"
#include "launcher/gradient_sizes.h"
#include "models/language_model.h"
#include "parallel/mesh.h"
#include "parallel/param_store.h"

namespace spanwise {

/// Bytes of a rank's memory.
struct PlannedMemory {
  int64_t parameters = 0, optimizer = 0;  ///< held all through training
  int64_t gradients = 0;                  ///< of parameters, at the update
  int64_t activations = 0;                ///< PlannedActivations::bytes
  /// Most at once. With one micro-batch a step gradients come while activations go, and the peak is less than
  /// the sum; with several both are there from the second forward on.
  int64_t peak = 0;
  /// Of the host: the copy that a checkpoint is written from (checkpoint_saver.h). Beside the above on the
  /// CPU, too. AUTO is taken for ONE: a plan does not know the machines.
  int64_t checkpoint_copy = 0;
};

struct PlannedActivations {
  int64_t bytes = 0;           ///< most that one micro-batch's forward and backward hold
  int64_t with_gradients = 0;  ///< the same beside the gradients of parameters that this backward brings
};

/// One collective's calls and received bytes in a step, all micro-batches together.
struct PlannedTraffic {
  std::string axis, name;
  int64_t calls = 0, received_bytes = 0;
};

struct RankPlan {
  int rank = 0;
  int64_t num_parameters = 0;  ///< of the whole model
  PlannedMemory memory;
  std::vector<PlannedTraffic> traffic;  ///< by axis, then name; axes of one rank have none
  int64_t received_bytes() const;
};

/// The rank's collectives of one step. `params` are the model's, laid out for the rank.
std::vector<PlannedTraffic> plan_traffic(const RunConfig& config, const Mesh& mesh,
                                         const LanguageModel& model, const ParamLayout& params,
                                         int zero_stage);

/// Rows being one document each (size_tape.h, block_sizes.h, exchange_sizes.h).
PlannedActivations plan_activations(const RunConfig& config, const Mesh& mesh, const LanguageModel& model,
                                    const ParamLayout& params, const GradientSizes& gradients);

/// The config whose run is planned: AUTO in BF16, which only GPUs run, is CUDA whether this machine has any
/// or not. Otherwise AUTO stays what it is for a run on this machine.
RunConfig config_to_plan(RunConfig config);

/// On the device that compute_device gives, which need not be here. For a config without config_problems of a
/// plan for `world_size` ranks. UserError where the layout depends on the machine and the config does not say
/// (TWO_LEVEL without parallel.ranks_per_node).
RankPlan plan_rank(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank);

/// One plan for every rank of the first data rank, in rank order: others' plans are the same.
std::vector<RankPlan> plan_ranks(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size);

}  // namespace spanwise
