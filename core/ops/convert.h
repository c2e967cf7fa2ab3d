#pragma once
// to (=) from, rounded to to's dtype: a model's BF16 weights from their F32 masters. Both contiguous and of
// equal size; F32 to BF16, BF16 to F32, or one dtype, which copies.

#include "core/tensor.h"

namespace spanwise {

void convert(Context& ctx, const Tensor& from, const Tensor& to);
/// The same values in another dtype: itself where that is its own.
Tensor converted(Context& ctx, const Tensor& t, DType dtype);

namespace cpu {
void convert(const Context& ctx, const Tensor& from, const Tensor& to);
}  // namespace cpu
namespace cuda {
void convert(const Context& ctx, const Tensor& from, const Tensor& to);
}  // namespace cuda

}  // namespace spanwise
