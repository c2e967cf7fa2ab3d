#pragma once
// One token of every row, for generation, of the families of core/ops/linear_state.h.

#include "core/ops/linear_kernels.h"

namespace spanwise::cuda {

/// LinearStateKernels::step: S ← e^g S + k wᵀ, out = s Sᵀ q for every row and value head.
template <StateWrite kWrite>
void linear_step(Context& ctx, const LinearOperands<Tensor>& x, double scale, const Tensor& out);

}  // namespace spanwise::cuda
