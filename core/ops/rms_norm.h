#pragma once
// RMSNorm (Zhang & Sennrich, arXiv 1910.07467), over the last dimension D:
//
//   y = x · rstd ∘ w,   rstd = 1 / sqrt(mean(x²) + eps)
//   dx = rstd (w∘dy − x̂ · mean(w∘dy∘x̂)),   x̂ = x · rstd;   dw = Σ_rows dy∘x̂
//
//   x, y [..., D]   w [D], or [G·D] with G·D the product of trailing dimensions (one weight per group), or
//   undefined (1). Saves x and rstd [rows]. x may be a column block. x and y of one dtype; w, dw and rstd of
//   its accumulation_dtype.
//
// With a DimPart, x, w and y hold D elements of rows of `whole`: the sums of squares and of w∘dy∘x are added
// over the parts, one reduction [rows] each way; recomputation under checkpointing reduces nothing.

#include "core/autograd.h"
#include "core/ops/dim_part.h"

namespace spanwise {

Var rms_norm(Tape& tape, const Var& x, const Var& weight, double eps, const DimPart& part = {});

struct AddRmsNorm {
  Var sum;     ///< x + residual: the new residual stream
  Var normed;  ///< rms_norm(sum)
};
/// The pre-norm block's two steps in one pass: sum = x + residual, normed = rms_norm(sum). `residual` may be
/// undefined.
AddRmsNorm add_rms_norm(Tape& tape, const Var& x, const Var& residual, const Var& weight, double eps);

// Tensor level. With `residual`, `sum` is written too.
struct RmsNormForward {
  Tensor y, rstd, sum;
};
RmsNormForward rms_norm_fwd(Context& ctx, const Tensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, const DimPart& part = {});

struct RmsNormBackward {
  Tensor dx, dweight;  ///< dweight undefined when weight is
};
/// dx includes dsum (the gradient that reaches x through the residual stream) if it is defined. Writes (=).
RmsNormBackward rms_norm_bwd(Context& ctx, const Tensor& dy, const Tensor& dsum, const Tensor& x,
                             const Tensor& weight, const Tensor& rstd, const DimPart& part = {});

namespace cpu {
void rms_norm_fwd(const Context& ctx, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, const RmsNormForward& out, const DimPart& part);
void rms_norm_bwd(Context& ctx, const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                  const Tensor& rstd, const RmsNormBackward& out, const DimPart& part);
}  // namespace cpu
namespace cuda {
void rms_norm_fwd(const Context& ctx, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, const RmsNormForward& out, const DimPart& part);
void rms_norm_bwd(Context& ctx, const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                  const Tensor& rstd, const RmsNormBackward& out, const DimPart& part);
}  // namespace cuda

}  // namespace spanwise
