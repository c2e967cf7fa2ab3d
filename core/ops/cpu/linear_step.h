#pragma once
// One token of every row, for generation.

#include "core/ops/linear_kernels.h"

namespace spanwise::cpu {

/// LinearStateKernels::step: S ← e^g S + k wᵀ, out = s Sᵀ q for every row and value head.
template <StateWrite kWrite>
void linear_step(Context& ctx, const LinearOperands<Tensor>& x, double scale, const Tensor& out);

}  // namespace spanwise::cpu
