#pragma once
// SwiGLU (Shazeer, arXiv 2002.05202), the product between the MLP's projections:
//
//   y = silu(gate) ∘ up;   dgate = dy ∘ up ∘ silu'(gate),   dup = dy ∘ silu(gate)
//
//   gate, up, y [..., F]. gate and up may be column blocks of one projection. Saves gate and up; the product
//   is recomputed in backward. Any float dtype, all equal.

#include "core/autograd.h"

namespace spanwise {

Var swiglu(Tape& tape, const Var& gate, const Var& up);

namespace cpu {
void swiglu_fwd(const Context& ctx, const Tensor& gate, const Tensor& up, const Tensor& y);
/// Writes (=) dgate and dup, contiguous.
void swiglu_bwd(const Context& ctx, const Tensor& dy, const Tensor& gate, const Tensor& up,
                const Tensor& dgate, const Tensor& dup);
}  // namespace cpu
namespace cuda {
void swiglu_fwd(const Context& ctx, const Tensor& gate, const Tensor& up, const Tensor& y);
void swiglu_bwd(const Context& ctx, const Tensor& dy, const Tensor& gate, const Tensor& up,
                const Tensor& dgate, const Tensor& dup);
}  // namespace cuda

}  // namespace spanwise
