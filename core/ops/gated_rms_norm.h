#pragma once
// RMSNorm with a gate, the output norm of linear-attention mixers; norm(x) = x · rstd as in rms_norm.h, over
// the last dimension D, f = φ(gate):
//
//   norm then gate:           y = norm(x) ∘ w ∘ f
//     dx = rstd (h − x̂ · mean(h∘x̂)),  h = dy∘w∘f;   dgate = dy∘x̂∘w∘φ'(gate);   dw = Σ_rows dy∘x̂∘f
//   gate then norm (Mamba2):  y = norm(u) ∘ w,  u = x∘f
//     du as rms_norm's dx;   dx = du∘f;   dgate = du∘x∘φ'(gate);   dw = Σ_rows dy∘û
//
//   x, gate, y [..., D]   w [D], or [G·D] with G·D the product of trailing dimensions (one weight per group),
//   or undefined (1). Saves x, gate and rstd [rows]. x and gate may be column blocks. x, gate
//   and y of one dtype; w, dw and rstd of its accumulation_dtype. φ is kSiLU or kSigmoid. A DimPart as in
//   rms_norm.h.

#include "core/autograd.h"
#include "core/ops/dim_part.h"
#include "core/ops/pointwise.h"

namespace spanwise {

enum class GateOrder { kNormThenGate, kGateThenNorm };

struct GatedNormOptions {
  Activation gate_activation = Activation::kSiLU;
  GateOrder order = GateOrder::kNormThenGate;
  DimPart part{};
};

Var gated_rms_norm(Tape& tape, const Var& x, const Var& gate, const Var& weight, double eps,
                   GatedNormOptions options = {});

/// What forward read and backward reads again; weight may be undefined.
struct GatedNormInputs {
  Tensor x, gate, weight;
  GatedNormOptions options;
};
struct GatedNormGradients {
  Tensor dx, dgate, dweight;  ///< dweight undefined when weight is
};

namespace cpu {
void gated_rms_norm_fwd(const Context& ctx, const GatedNormInputs& in, double eps, const Tensor& y,
                        const Tensor& rstd);
/// Writes (=) every gradient.
void gated_rms_norm_bwd(Context& ctx, const Tensor& dy, const GatedNormInputs& in, const Tensor& rstd,
                        const GatedNormGradients& grads);
}  // namespace cpu
namespace cuda {
void gated_rms_norm_fwd(const Context& ctx, const GatedNormInputs& in, double eps, const Tensor& y,
                        const Tensor& rstd);
void gated_rms_norm_bwd(Context& ctx, const Tensor& dy, const GatedNormInputs& in, const Tensor& rstd,
                        const GatedNormGradients& grads);
}  // namespace cuda

}  // namespace spanwise
