#pragma once
// One-element tensors on the host: what a training step says of itself. However many there are, a GPU is
// waited for once.

#include <vector>

#include "core/tensor.h"

namespace spanwise {

/// Their values; F32 or F64 each.
std::vector<double> read_scalars(Context& ctx, const std::vector<Tensor>& scalars);

namespace cpu {
/// to [1] of F64 (=) from [1].
void copy_scalar(const Context& ctx, const Tensor& from, const Tensor& to);
}  // namespace cpu
namespace cuda {
void copy_scalar(const Context& ctx, const Tensor& from, const Tensor& to);
}  // namespace cuda

}  // namespace spanwise
