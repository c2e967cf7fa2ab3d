#pragma once
// The delta rule with one decay a head (DeltaNet, arXiv 2406.06484; Gated DeltaNet, 2412.06464):
//
//   S' = e^{g_t} S_{t-1}    S_t = S' + β_t k_t (v_t − S'ᵀ k_t)ᵀ    o_t = s S_tᵀ q_t        g ≤ 0
//
// With |k| = 1 the transition along k is e^g (1 − β): β in (0, 1), or (0, 2) for negative eigenvalues. The
// caller normalises k. Per chunk, with the symbols of scalar_decay.h, M⁻ the strict lower triangle,
// Λ = β∘(KKᵀ)∘E∘M⁻ and Θ = (I + Λ)⁻¹, the state takes N in place of v:
//
//   N = Θ (β∘(V − e^G∘(K S₀)))    O, S₁ as scalar_decay
//   dQ, J (its dK), dN (its dV), dG, dS₀ as scalar_decay, then
//   Z = Θᵀ dN    X = −(Z Nᵀ)∘E∘M⁻    Ψ = X K − e^G∘(Z S₀ᵀ)    R = Xᵀ (β∘K)
//   dK = J + β∘Ψ + R    dV = β∘Z    dβ = rowsum(Z∘V) + rowsum(K∘Ψ)
//   dG += rowsum(K∘(β∘Ψ − R))    dS₀ −= (β e^G∘K)ᵀ Z
//
// Θ is never formed: both products are triangular solves. Backward solves for N again rather than saving it.
// Shapes, segments and memory: linear_state.h.
//
// Work (core/work.h) of a chunk of n tokens and a value head: 2 n² (K + V) + 6 n K V: of the triangles KKᵀ,
// QKᵀ, those times N and the solve, and of the products K S₀, Q S₀ and KᵀN. Backward: twice that. A step: 6 K
// V.

#include "core/ops/linear_state.h"

namespace spanwise {

/// log_decay [B,T,HV] undefined: g = 0 (DeltaNet). beta [B,T,HV]. initial_state [B,HV,K,V] may be undefined.
LinearStateResult gated_delta(Tape& tape, const Var& q, const Var& k, const Var& v, const Var& log_decay,
                              const Var& beta, const SequenceLayout& layout, const Var& initial_state,
                              const LinearStateOptions& options);

LinearStateBytes gated_delta_bytes(Device device, const LinearStateShape& shape, const ChunkList& chunks);

/// One token a row; step.beta is defined.
Tensor gated_delta_step(Context& ctx, const LinearStateStep& step);

namespace cpu {
void gated_delta_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateForward& out);
void gated_delta_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateCotangents& from, const LinearStateGradients& out);
void gated_delta_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                           const LinearStateForward& out);
void gated_delta_local(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void gated_delta_fold(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void gated_delta_dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                        const Tensor& dstate_in);
void gated_delta_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& out);
void gated_delta_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                          const LinearStateGradients& out);
/// LinearStateKernels::temporaries.
void gated_delta_temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input);
void gated_delta_step(Context& ctx, const LinearStateStep& step, const Tensor& out);
}  // namespace cpu

// BF16: chunks of at most 64 tokens, K and V of 64, 128 or 256. F32: token by token, K up to 256.
namespace cuda {
LinearStateBytes gated_delta_bytes(const LinearStateShape& shape, const ChunkList& chunks);
/// BF16, per value head: 17·1024 + 128·V bytes a chunk (Θ, A, decays, N), and 2·K·V for the state before
/// every chunk but a segment's first, and once more a row; where segments are cut (cuda/delta/pieces.h)
/// 4·K·(K + V) + 4 a piece. F32: as the CPU. Temporaries: cuda/delta/sizes.h.
std::vector<Tensor> gated_delta_saved(Context& ctx, const LinearStateCall& call);
/// Without states and values.
std::vector<Tensor> gated_delta_passed(Context& ctx, const LinearStateCall& call);
void gated_delta_temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input);
void gated_delta_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateForward& out);
void gated_delta_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateCotangents& from, const LinearStateGradients& out);
void gated_delta_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                           const LinearStateForward& out);
void gated_delta_local(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void gated_delta_fold(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void gated_delta_dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                        const Tensor& dstate_in);
void gated_delta_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& out);
void gated_delta_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                          const LinearStateGradients& out);
void gated_delta_step(Context& ctx, const LinearStateStep& step, const Tensor& out);
}  // namespace cuda

}  // namespace spanwise
