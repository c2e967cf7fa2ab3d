#pragma once
// to += from: how gradients add up. Both contiguous and of equal size; `from` is of to's dtype, or BF16 where
// `to` is an F32 gradient of a parameter.

#include "core/tensor.h"

namespace spanwise {

void accumulate(Context& ctx, const Tensor& to, const Tensor& from);

namespace cpu {
void accumulate(const Context& ctx, const Tensor& to, const Tensor& from);
}  // namespace cpu
namespace cuda {
void accumulate(const Context& ctx, const Tensor& to, const Tensor& from);
}  // namespace cuda

}  // namespace spanwise
