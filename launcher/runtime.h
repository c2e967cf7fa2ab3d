#pragma once
// What a verb runs on: threads of this rank and its Context.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "configs/run_config.pb.h"
#include "core/context.h"
#include "parallel/comm.h"

namespace spanwise {

/// Cores this process may use: its affinity mask, and the container's CPU quota if there is one. At least 1.
int available_cores();

/// A rank's share of the cores of its machine, at least 1. `masks` has a text for each rank of the machine,
/// with a '1' for each core that it may use, and `mine` is this rank's place in it. A core counts in equal
/// parts for the ranks that may use it: a job's ranks that are all bound to the same cores divide them. Of
/// `quota` cores (0: no limit), which a container's ranks have together, each has an equal part.
int share_of_cores(const std::vector<std::string>& masks, int mine, int quota);

/// This rank's threads for a train.threads of `configured`: its share for 0. Collective.
int threads_of_rank(int64_t configured, Comm& world);

/// What a config computes on here: AUTO is a GPU where this build and machine have one, unless in F64.
Device compute_device(const config::RunConfig& config);

/// Which of the GPUs that it sees a rank uses: the one of its number on this machine, or, where every rank is
/// bound to one (srun --gpus-per-task=1), that one. UserError if the machine has more ranks than it sees.
int gpu_of_rank(LocalRanks local, int visible_gpus);

/// UserError naming two ranks that have the same GPU, or of which one has none; by rank, gpu_id or empty.
void require_own_gpus(const std::vector<std::string>& ids);

/// The device and threads of a config: on GPUs, each rank its own. Only for configs without config_problems.
/// UserError where there is no such GPU. Called by all ranks of `world`.
std::unique_ptr<Context> make_context(const config::RunConfig& config, Comm& world);

}  // namespace spanwise
