#pragma once
// Linear layer:
//
//   y = x Wᵀ + b
//   dx = dy W;   dW += dyᵀ x;   db = Σ_rows dy
//
//   x [..., I]   weight [O, I]   bias [O] or undefined   y [..., O]
//
// Saves x and weight by reference. x may be a column block of width I; weight and bias are contiguous. All of
// one dtype, but the bias of accumulation_dtype. Only the gradients that are required are computed; dx and dW
// are accumulated by the GEMM itself, in place: on a GPU with F32 sums, straight into a BF16 weight's F32
// gradient.
//
// Work (core/work.h) of a row: 2 I O, and as much for dx and for dW.

#include "core/autograd.h"

namespace spanwise {

/// kYes: backward computes the product again instead of keeping it.
enum class Recompute { kNo, kYes };
Var linear(Tape& tape, const Var& x, const Var& weight, const Var& bias = {},
           Recompute recompute = Recompute::kNo);

// Tensor level.
Tensor linear_fwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias);
/// Writes (=) or adds to (+=) the target.
void linear_bwd_x(Context& ctx, const Tensor& dy, const Tensor& weight, const Var::GradTarget& dx);
void linear_bwd_weight(Context& ctx, const Tensor& dy, const Tensor& x, const Var::GradTarget& dweight);
Tensor linear_bwd_bias(Context& ctx, const Tensor& dy);

/// What products work in: bytes that the first one takes, for all that follow.
int64_t linear_workspace_bytes(Device device);
/// What choosing an algorithm for the gradient of a weight [outputs, inputs] over so many rows takes, once,
/// beside that: memory for a part of the gradient, at most cuda::kGemmTrialBytes.
int64_t linear_trial_bytes(Device device, int64_t rows, int64_t outputs, int64_t inputs);

namespace cpu {
void linear_fwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y);
void linear_bwd_x(Context& ctx, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate);
void linear_bwd_weight(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& dweight,
                       bool accumulate);
void linear_bwd_bias(Context& ctx, const Tensor& dy, const Tensor& dbias);
}  // namespace cpu
namespace cuda {
void linear_fwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y);
void linear_bwd_x(Context& ctx, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate);
void linear_bwd_weight(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& dweight,
                       bool accumulate);
void linear_bwd_bias(Context& ctx, const Tensor& dy, const Tensor& dbias);
}  // namespace cuda

}  // namespace spanwise
