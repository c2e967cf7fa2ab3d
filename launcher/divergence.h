#pragma once
// Training whose numbers are no numbers any more: what is said, and that nothing of it is saved or evaluated.

#include <cstdint>
#include <string>

#include "parallel/sharded_adamw.h"

namespace spanwise {

/// Ends training at step `step`, which `finding` describes ("has loss nan"). `newest_checkpoint` is empty
/// where there is none.
[[noreturn]] void fail_diverged(int64_t step, const std::string& finding,
                                const std::string& newest_checkpoint);

/// UserError on every rank, as fail_diverged, unless all weights and moments are finite. A loss vouches for
/// the weights that it was computed with, not for those that the step's update made of them. Collective.
void require_finite_update(int64_t step, const ParamStore& params, const ShardedAdamW& optimizer,
                           const std::string& newest_checkpoint);

}  // namespace spanwise
