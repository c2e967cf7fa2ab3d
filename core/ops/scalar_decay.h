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
// of QKᵀ and AV, and of the products Q S₀ and K̃ᵀV. Backward: twice that. A step: 4 K V. Of spans, as
// recomputed: 2 n K V a chunk, for the summary of a row's last segment and for D of continuing segments.

#include "core/ops/linear_state.h"

namespace spanwise {

/// log_decay, head_log_decay or neither: g = 0. initial_state may be undefined.
extern const LinearFamily kScalarDecay;
LinearStateResult scalar_decay(Tape& tape, const LinearOperands<Var>& x, const SequenceLayout& layout,
                               const LinearStateOptions& options);

LinearStateBytes scalar_decay_bytes(Device device, const LinearStateShape& shape, const ChunkList& chunks);

namespace cpu {
LinearStateKernels scalar_decay_kernels();
}
/// BF16 with head dims 64, 128 and 256, and F32. Saved beside the operands: with decays per token a state of
/// the operands' dtype every 512 tokens, and F32 states where long segments of few heads are cut. Rows as
/// spans: the summary is a scan of its own, and rows that continue are computed when their incoming state is
/// known; backward, dq waits for no exchange.
namespace cuda {
LinearStateKernels scalar_decay_kernels();
void add_scalar_decay_kernels(LinearStateKernels& kernels);  ///< what of it needs CUDA
LinearStateBytes scalar_decay_bytes(const LinearStateShape& shape, const ChunkList& chunks);
}  // namespace cuda

}  // namespace spanwise
