#pragma once
// What a training step of a config needs on one rank of any number of ranks: bytes of memory of the device
// that it will run on, bytes received by every collective, and the work of its ops. A plan is a dry run: it
// builds on a dry Context (core/context.h) and a dry world (parallel/comm_dry.h) what Trainer builds, runs
// TrainStep (launcher/train_step.h) twice, and tells what the second one took (of many micro-batches that are
// alike, three stand for all). Nothing here knows of mixers, exchanges or losses.
//
// Shapes depend on the config and on where documents begin in rows (launcher/step_rows.h), never on values.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/work.h"
#include "launcher/config/config.h"
#include "launcher/step_rows.h"

namespace spanwise {

/// Bytes of a rank's memory, as its device's allocator rounds them up.
struct PlannedMemory {
  int64_t parameters = 0;   ///< what the model reads, held all through training
  int64_t optimizer = 0;    ///< masters, moments and tables, held all through training
  int64_t gradients = 0;    ///< of parameters, at the update
  int64_t activations = 0;  ///< most that one micro-batch holds beside these three
  /// Most at once in any step but the first. With one micro-batch a step gradients come while activations go,
  /// and it is less than the sum; with several both are there from the second forward on.
  int64_t peak = 0;
  int64_t first_peak = 0;  ///< of a run's first step, which on a GPU also chooses algorithms of products
  /// Of the host: the copy that a checkpoint is written from (checkpoint_saver.h). Beside the above on the
  /// CPU, too. AUTO is taken for ONE: a plan does not know the machines.
  int64_t checkpoint_copy = 0;
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
  std::vector<PlannedTraffic> traffic;  ///< by axis, then name; what one rank does alone is not in it
  Work work;                            ///< of a step on this rank
  int64_t received_bytes() const;
};

/// The config whose run is planned: AUTO in BF16, which only GPUs run, is CUDA whether this machine has any
/// or not. Otherwise AUTO stays what it is for a run on this machine.
RunConfig config_to_plan(RunConfig config);

/// On the device that compute_device gives, which need not be here. For a config without config_problems of a
/// plan for `world_size` ranks. UserError where the layout depends on the machine and the config does not say
/// (TWO_LEVEL without parallel.ranks_per_node).
RankPlan plan_rank(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank,
                   const StepRows& rows);
/// With rows of one document each.
RankPlan plan_rank(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank);

/// What holds and receives most of all ranks, each of which is run dry. Of data ranks whose rows are cut into
/// documents alike one is: they differ in the optimizer's tables alone (some KiB).
struct MostOfAnyRank {
  int memory_rank = 0, traffic_rank = 0;
  int64_t peak = 0, received_bytes = 0;
};
MostOfAnyRank plan_ranks(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size,
                         const StepRows& rows);

/// The step among the first `steps` of which a micro-batch holds most on `rank`; of each step the one with
/// most documents is run dry. `rows` gives a step's, counted from 0.
int64_t fullest_step(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank,
                     int64_t steps, const std::function<StepRows(int64_t step)>& rows);

}  // namespace spanwise
