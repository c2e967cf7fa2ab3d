#pragma once
// L2 normalisation over the last dimension D, as delta-rule mixers apply to queries and keys:
//
//   y = x · rstd,   rstd = 1 / sqrt(Σ x² + eps);   dx = rstd (dy − y ⟨y, dy⟩)
//
//   x, y [..., D]. Saves y and rstd [rows]. x may be a column block. Any float dtype; rstd of its
//   accumulation_dtype.

#include "core/autograd.h"

namespace spanwise {

Var l2_norm(Tape& tape, const Var& x, double eps = 1e-6);

namespace cpu {
void l2_norm_fwd(const Context& ctx, const Tensor& x, double eps, const Tensor& y, const Tensor& rstd);
/// Writes (=) dx, contiguous.
void l2_norm_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, const Tensor& rstd, const Tensor& dx);
}  // namespace cpu
namespace cuda {
void l2_norm_fwd(const Context& ctx, const Tensor& x, double eps, const Tensor& y, const Tensor& rstd);
void l2_norm_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, const Tensor& rstd, const Tensor& dx);
}  // namespace cuda

}  // namespace spanwise
