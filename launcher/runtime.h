#pragma once
// What a verb runs on: threads of this rank and its Context.

#include <cstdint>
#include <memory>

#include "configs/run_config.pb.h"
#include "core/context.h"

namespace spanwise {

/// Cores this process may use: its affinity mask, and the container's CPU quota if there is one. At least 1.
int available_cores();

/// `configured` threads, or for 0 the cores of the machine divided by its ranks; a rank that is bound to some
/// of the cores uses all of those. At least 1.
int threads_per_rank(int64_t configured, int local_ranks);

/// What a config computes on here: AUTO is a GPU where this build and machine have one, unless in F64.
Device compute_device(const config::RunConfig& config);

/// The device and threads of a config: on GPUs, each rank of this machine its own. Only for configs without
/// config_problems. UserError where there is no such GPU.
std::unique_ptr<Context> make_context(const config::RunConfig& config);

}  // namespace spanwise
