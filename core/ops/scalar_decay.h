#pragma once
// Linear attention with one decay a head (linear attention, arXiv 2006.16236; RetNet, 2307.08621; Mamba-2's
// SSD, 2405.21060):
//
//   S_t = e^{g_t} S_{t-1} + k_t v_tᵀ        o_t = s S_tᵀ q_t        g ≤ 0
//
// Per chunk, with G the inclusive cumulative sum of g, Ḡ its last element, E_ij = e^{G_i − G_j},
// K̃ = e^{Ḡ−G}∘K, M the lower triangle with its diagonal, S₀ and S₁ the states before and after:
//
//   A = s (QKᵀ)∘E∘M    O = s e^G∘(Q S₀) + A V    S₁ = e^Ḡ S₀ + K̃ᵀ V
//   B = s (dO Vᵀ)∘E∘M    dQ = s e^G∘(dO S₀ᵀ) + B K    dK = e^{Ḡ−G}∘(V dS₁ᵀ) + Bᵀ Q    dV = K̃ dS₁ + Aᵀ dO
//   dG = rowsum(Q∘dQ − K∘dK), its last element += ⟨S₁, dS₁⟩    dg = reverse cumulative sum of dG
//   dS₀ = e^Ḡ dS₁ + s (e^G∘Q)ᵀ dO
//
// Only differences ≤ 0 are exponentiated, so no decay, however fast, overflows. Shapes, segments and memory:
// linear_state.h.
//
// Work (core/work.h) of a chunk of n tokens and a value head: n (n + 1) (K + V) + 4 n K V: of the triangles
// of QKᵀ and AV, and of the products Q S₀ and K̃ᵀV. Backward: twice that. A step: 4 K V.

#include "core/ops/linear_state.h"

namespace spanwise {

/// At most one of the two; neither: g = 0.
struct Decay {
  Var per_token;    ///< [B,T,HV] log decay ≤ 0
  Tensor per_head;  ///< [HV] constant log decay ≤ 0, without a gradient
};

/// initial_state [B,HV,K,V] may be undefined.
LinearStateResult scalar_decay(Tape& tape, const Var& q, const Var& k, const Var& v, const Decay& decay,
                               const SequenceLayout& layout, const Var& initial_state,
                               const LinearStateOptions& options);

LinearStateBytes scalar_decay_bytes(Device device, const LinearStateShape& shape, const ChunkList& chunks);

/// One token a row; step.beta is undefined.
Tensor scalar_decay_step(Context& ctx, const LinearStateStep& step);

namespace cpu {
void scalar_decay_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                      const LinearStateForward& out);
void scalar_decay_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                      const LinearStateCotangents& from, const LinearStateGradients& out);
void scalar_decay_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                            const LinearStateForward& out);
void scalar_decay_local(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void scalar_decay_fold(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void scalar_decay_dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                         const Tensor& dstate_in);
void scalar_decay_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                            const LinearStateGradients& out);
void scalar_decay_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& out);
/// LinearStateKernels::temporaries.
void scalar_decay_temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input);
void scalar_decay_step(Context& ctx, const LinearStateStep& step, const Tensor& out);
}  // namespace cpu

/// BF16 with head dims 64, 128 and 256, and F32. Saved beside the operands: with decays per token a state of
/// the operands' dtype every 512 tokens, and F32 states where long segments of few heads are cut. Rows as
/// spans: the summary is a scan of its own, and rows that continue are computed when their incoming state is
/// known; backward, dq waits for no exchange.
namespace cuda {
LinearStateBytes scalar_decay_bytes(const LinearStateShape& shape, const ChunkList& chunks);
std::vector<Tensor> scalar_decay_saved(Context& ctx, const LinearStateCall& call);
void scalar_decay_temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input);
void scalar_decay_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                      const LinearStateForward& out);
void scalar_decay_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                      const LinearStateCotangents& from, const LinearStateGradients& out);
void scalar_decay_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                            const LinearStateForward& out);
void scalar_decay_local(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void scalar_decay_fold(Context& ctx, const LinearStateCall& call, const LinearStateForward& out);
void scalar_decay_dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                         const Tensor& dstate_in);
void scalar_decay_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                            const LinearStateGradients& out);
void scalar_decay_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& out);
void scalar_decay_step(Context& ctx, const LinearStateStep& step, const Tensor& out);
}  // namespace cuda

}  // namespace spanwise
