#pragma once
// The one kernel of scalar-decay attention (core/ops/scalar_decay.h): a scan of decayed states with outputs.
//
//   forward in time:  X_t = e^{g_t} X_{t-1} + w k_t v_tᵀ    out_t = r X_tᵀ q_t
//   backward in time: X_t = Y_t + w k_t v_tᵀ    out_t = r X_tᵀ q_t    Y_{t-1} = e^{g_t} X_t
//
// The op's forward is the scan forward in time of (q, k, v). Its gradients are scans as well, for every pair
// of tokens enters all of them with the same decay: dq is the scan forward in time of (dO, V, K), dk the one
// backward in time of (V, dO, Q), dv the one backward in time of (K, Q, dO). So backward needs no state of
// every chunk, and moves as many bytes as three forwards.
//
// bf16 (per chunk of 64 tokens, G the inclusive cumulative sum of g): P = rw (QKᵀ)∘e^{−|G_i−G_j|}∘M, with M
// the triangle on the side of the past; out = from∘(QX) + PV; X ← e^Ḡ X + Kᵀ(to∘V). One block works on a run
// of chunks, one head and 64 columns of v, with Xᵀ in registers; chunks of several segments may follow each
// other in a run. Few heads: segments are cut into pieces; a first launch scans every piece but the last from
// zero, states only, and a small one puts the pieces' starting states together.
//
// fp32: token by token, any widths; simple, to prove layouts.

#include "core/ops/cuda/state_scan/cuts.h"

namespace spanwise::cuda {

enum class ScanTime { kForward, kBackward };

/// Key width DK and value width DV are the scan's own, q.dim(3) and v.dim(3). BF16: 64, 128, 256 for DK,
/// multiples of 64 for DV.
struct StateScan {
  Tensor q, k, v;  ///< [B, T, heads, width]; column blocks too; HV a multiple of the heads
  Tensor out;      ///< [B, T, HV, DV], contiguous; undefined: states only
  ScanTime time;
  double read_scale = 1, write_scale = 1;  ///< r, w
  bool transposed_states = false;          ///< states in memory are [HV, DV, DK], not [HV, DK, DV]
  Tensor first_states;                     ///< where rows start, in the scan's time; undefined: zero
  Tensor last_states;  ///< written where rows end (in backward time: continue); or undefined
  /// States at the cuts, [num_cuts, HV, ·, ·] F32: read if `cut_states_known`, else written if defined.
  Tensor cut_states;
  bool cut_states_known = false;
  /// allocate_saved_states(): written, or with saved_dots read.
  Tensor saved_states;
  Tensor saved_dots;  ///< [slabs, num_slots, HV]: ⟨saved state, the scan's state there⟩ in every slab
  /// x [B, T, ·, DV] and dots [slabs, HV, B·T], x_t · out_t in every slab. Both or none.
  Tensor x, x_dots;
};

void run_state_scan(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts, SegmentSet which,
                    const StateScan& scan);

}  // namespace spanwise::cuda
