#pragma once
// Differentiable views: no values are copied forward.

#include <vector>

#include "core/autograd.h"

namespace spanwise {

/// x seen in another shape with as many elements; shares memory. Error where a column block cannot be seen in
/// that shape (see core/tensor.h).
Var reshape(Tape& tape, const Var& x, const Shape& shape);

/// The column blocks of x [..., N] of the given widths, left to right; Σ sizes = N. Each shares x's memory.
/// Backward assembles one gradient [..., N]; a block that backward did not reach counts as zero.
std::vector<Var> split_columns(Tape& tape, const Var& x, const std::vector<int64_t>& sizes);

namespace cpu {
/// out [..., N] (=) the blocks side by side; an undefined block of width sizes[i] is written as zeros.
void join_columns(const Context& ctx, const std::vector<Tensor>& blocks, const std::vector<int64_t>& sizes,
                  const Tensor& out);
}  // namespace cpu
namespace cuda {
void join_columns(const Context& ctx, const std::vector<Tensor>& blocks, const std::vector<int64_t>& sizes,
                  const Tensor& out);
}  // namespace cuda

}  // namespace spanwise
