#pragma once
// Depthwise causal convolution over a few tokens, the short convolution of linear-attention mixers:
//
//   pre_t = bias + Σ_i w_i ∘ x_{t−(W−1)+i},  i = 0 … W−1 (tap W−1 meets the current token);   out = φ(pre)
//   u = dout ∘ φ'(pre);   dx_t = Σ_j w_{W−1−j} ∘ u_{t+j};   dw_i = Σ_t u_t ∘ x_{t−(W−1)+i};   dbias = Σ_t u_t
//
// With `heads`, every head of out is divided by its length, as in l2_norm.h: out = z · rstd for z = φ(pre),
// and in backward u = rstd (dout − out ⟨out, dout⟩) ∘ φ'(pre). On CUDA that is one pass for heads of 64 and
// 128 channels after SiLU, and z is never in memory; elsewhere l2_norm follows the convolution.
//
//   x, out [B, T, C]   weight [C, 1, W], W = 2, 3 or 4   bias [C] or undefined
//   initial_state, final_state [B, W−1, C]: a row's inputs just before its first token and up to its last one
//
// Tokens before a document's start count as zero. A row's first segment that continues a document reads
// initial_state (undefined = zeros). final_state is what a call on the row's next tokens takes as
// initial_state: the last W−1 inputs of the row's last document, zero where the document is shorter. Running
// [0, t) and then [t, T) with the carried state equals running [0, T).
//
// Saves x; the pre-activation is recomputed. x may be a column block. φ is kNone or kSiLU. x, out
// and the states are of one dtype, weight, bias and their gradients of its accumulation_dtype. Gradients also
// arrive at final_state.
//
// Work (core/work.h) of a token: 2 W C. Backward: twice that.

#include "core/autograd.h"
#include "core/ops/pointwise.h"
#include "core/sequence_layout.h"

namespace spanwise {

struct ShortConvResult {
  Var out;
  Var final_state;
};

/// Heads of `dim` consecutive channels, each divided by sqrt(Σ z² + eps); dim 0: none is.
struct L2Heads {
  int64_t dim = 0;
  double eps = 1e-6;
};

ShortConvResult short_conv(Tape& tape, const Var& x, const Var& weight, const Var& bias,
                           const SequenceLayout& layout, Activation activation, const Var& initial_state,
                           const L2Heads& heads = {});

/// What forward read and backward reads again. Undefined: bias, initial_state.
struct ShortConvInputs {
  Tensor x, weight, bias, initial_state;
  std::vector<Segment> segments;
  Activation activation;
  L2Heads heads;
};
struct ShortConvGradients {
  Tensor dx, dweight, dbias, dinitial_state;  ///< the last two undefined where the input is
};

/// Heads that kernels on a GPU divide in the convolution's own pass, after SiLU and in aligned rows.
constexpr bool short_conv_kernel_takes_heads(int64_t dim) {
  return dim == 64 || dim == 128;
}

namespace cpu {
/// heads.dim is 0.
void short_conv_fwd(const Context& ctx, const ShortConvInputs& in, const Tensor& out,
                    const Tensor& final_state);
/// Writes (=) every gradient. dfinal_state may be undefined.
void short_conv_bwd(const Context& ctx, const ShortConvInputs& in, const Tensor& dout,
                    const Tensor& dfinal_state, const ShortConvGradients& grads);
}  // namespace cpu
namespace cuda {
/// Whether fwd and bwd take `heads` of these operands; false: heads.dim must be 0. Host code.
bool short_conv_divides_heads(const ShortConvInputs& in);
void short_conv_fwd(Context& ctx, const ShortConvInputs& in, const Tensor& out, const Tensor& final_state);
void short_conv_bwd(Context& ctx, const ShortConvInputs& in, const Tensor& dout, const Tensor& dfinal_state,
                    const ShortConvGradients& grads);
}  // namespace cuda

}  // namespace spanwise
