#pragma once
// What a training step of a config needs on one rank of any number of ranks, without running it: bytes of
// memory, and bytes received by every collective. The model is built without weights, its parameters are laid
// out as the run would lay them out, and collectives are counted by the formulas of their headers
// (parallel/comm.h, param_store.h, state_exchange.h, attention_exchange.h, halo.h).
//
// Rows are taken as one document each. Where documents end inside rows, halos are shorter; all else is the
// same for any data.

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/config.h"
#include "models/language_model.h"
#include "parallel/mesh.h"
#include "parallel/param_store.h"

namespace spanwise {

/// Bytes a rank holds from one step to the next.
struct PlannedMemory {
  int64_t parameters = 0, gradients = 0, optimizer = 0;
  int64_t total() const { return parameters + gradients + optimizer; }
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
  int64_t activation_bytes = 0;         ///< plan_activations
  std::vector<PlannedTraffic> traffic;  ///< by axis, then name; axes of one rank have none
  int64_t received_bytes() const;
};

/// The rank's collectives of one step. `params` are the model's, laid out for the rank.
std::vector<PlannedTraffic> plan_traffic(const RunConfig& config, const Mesh& mesh,
                                         const LanguageModel& model, const ParamLayout& params,
                                         int zero_stage);

/// Most bytes that one micro-batch's forward and backward hold beside the above, rows being one document
/// each (size_tape.h, block_sizes.h, exchange_sizes.h). ZeRO's gathered and unreduced buckets are not
/// counted.
int64_t plan_activations(const RunConfig& config, const Mesh& mesh, const LanguageModel& model);

/// For a config without config_problems for `world_size` ranks. UserError where the layout depends on the
/// machine and the config does not say (TWO_LEVEL without parallel.ranks_per_node).
RankPlan plan_rank(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank);

/// One plan for every rank of the first data rank, in rank order: others' plans are the same.
std::vector<RankPlan> plan_ranks(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size);

}  // namespace spanwise
