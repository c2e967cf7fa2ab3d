#pragma once
// The second half of every parameter gradient: kernels leave one partial sum a block, this adds them in a
// fixed order.

#include "core/tensor.h"

namespace spanwise::cuda {

/// to [columns] (=) Σ_p partial[p · columns + c] over `count` partials, both F32.
void sum_partials(const Context& ctx, const float* partial, int64_t count, int64_t columns, float* to);

}  // namespace spanwise::cuda
