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
// QKᵀ, those times N and the solve, and of the products K S₀, Q S₀ and KᵀN. Backward: twice that. A step:
// 6 K V. Of spans, as recomputed: the summary n (n − 1) (K + V) + 4 n K V a chunk of a row's last segment
// and, where it fills the row, n (n − 1) K + 4 n K² for the transition; D as much as forward, of continuing
// segments.

#include "core/ops/linear_state.h"

namespace spanwise {

/// Needs beta. log_decay undefined: g = 0 (DeltaNet). initial_state may be undefined.
extern const LinearFamily kGatedDelta;
LinearStateResult gated_delta(Tape& tape, const LinearOperands<Var>& x, const SequenceLayout& layout,
                              const LinearStateOptions& options);

LinearStateBytes gated_delta_bytes(Device device, const LinearStateShape& shape, const ChunkList& chunks);

namespace cpu {
LinearStateKernels gated_delta_kernels();
}
// BF16: chunks of at most 64 tokens, K and V of 64, 128 or 256. F32: token by token, K up to 256. Saved,
// BF16, per value head: 17·1024 + 128·V bytes a chunk (Θ, A, decays, N), and 2·K·V for the state before every
// chunk but a segment's first, and once more a row; where segments are cut (cuda/delta/pieces.h) 4·K·(K + V)
// + 4 a piece. F32: as the CPU. Temporaries: cuda/delta/sizes.h.
namespace cuda {
LinearStateKernels gated_delta_kernels();
void add_gated_delta_kernels(LinearStateKernels& kernels);  ///< what of it needs CUDA
LinearStateBytes gated_delta_bytes(const LinearStateShape& shape, const ChunkList& chunks);
}  // namespace cuda

}  // namespace spanwise
