#pragma once
// One token of every row, for generation, of the families of core/ops/linear_state.h.

#include "core/ops/linear_state.h"

namespace spanwise::cuda {

/// S ← e^g S + k wᵀ, out = s Sᵀ q for every row and value head, where w is v, or with step.beta the delta
/// rule's β (v − e^g Sᵀ k).
void linear_step(Context& ctx, const LinearStateStep& step, const Tensor& out);

}  // namespace spanwise::cuda
