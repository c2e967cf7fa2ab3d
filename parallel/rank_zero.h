#pragma once
// What rank 0 does alone while the others wait: directories, files, samples.

#include <functional>
#include <string>
#include <string_view>

#include "parallel/comm.h"
#include "parallel/stop_request.h"

namespace spanwise {

/// Rank 0 runs `work` on a thread of its own. Meanwhile the ranks exchange signs of life, several times a
/// second: the world's timeout holds for each of these and not for the work, which may take as long as it
/// takes; a rank that is lost is still found and named. Returns on every rank what rank 0's work returned.
/// Collective, on the world; the work makes no call on any Comm of it. What the work throws is thrown on rank
/// 0 alone and has to end the run: a failure that a run survives is caught inside.
///
/// With `stop`, votes travel along, so that long work can end early where stop->agreed().
std::string run_on_rank_zero(Comm& world, std::string_view name, const std::function<std::string()>& work,
                             StopRequest* stop = nullptr);

}  // namespace spanwise
