#pragma once
// Softmax attention over a contiguous range of keys for every query, blockwise in O(T) memory (Dao et al.,
// arXiv 2205.14135; online softmax: Milakov & Gimelshein, arXiv 1805.02867):
//
//   P_ij = exp(scale q_i·k_j − L_i) for begin_i ≤ j < end_i, else 0,   L_i the row's log-sum-exp;   o = P v
//   δ_i = Σ do_i∘o_i;   dS = scale P∘(do vᵀ − δ);   dq = dS k;   dk = dSᵀ q;   dv = Pᵀ do
//
//   q [B, Tq, H, D]   k [B, Tk, HKV, D]   v [B, Tk, HKV, V]   out [B, Tq, H, V]   H a multiple of HKV
//
// Query head h reads key head h·HKV/H; dk and dv are summed over the query group in a fixed order. A query
// with an empty range gives zeros. Saves its inputs, out and L [B, Tq, H]; backward recomputes P block by
// block and writes (=) every gradient. Blocks that no query of a block reads are skipped, so windows and
// documents cost what they should. q, k and v may be column blocks. F32, F64 or BF16, all equal; L is of
// their accumulation_dtype. BF16 is for CUDA: on the CPU it is computed in F32 and rounded, so that what
// ranks do with parts can be tested without GPUs. On CUDA scale > 0, and head dims are 64, 128 or 256 with V
// = D in BF16, any up to 256 in F32 (core/ops/gpu_limits.h).
//
// Work (core/work.h) of a pair of a query and a key in its range, a query head: 2 (D + V). Backward: twice
// that, and 2 D again for the scores.

#include <vector>

#include "core/autograd.h"
#include "core/sequence_layout.h"

namespace spanwise {

/// Query i of row b reads keys [begin, end)[b·Tq + i] of row b: causal masks, documents, sliding windows,
/// shards of a sequence and a generation cache are all of this form.
struct KeyRanges {
  std::vector<int64_t> begin, end;
};

/// Each token reads its document's tokens up to itself, within this layout's row. window w > 0: itself and
/// w − 1 predecessors; 0: all of them.
KeyRanges causal_key_ranges(const SequenceLayout& layout, int64_t window);

Var softmax_attention(Tape& tape, const Var& q, const Var& k, const Var& v, const KeyRanges& ranges,
                      double scale);

// Tensor level.
struct AttentionInputs {
  Tensor q, k, v;
  KeyRanges ranges;
  double scale;
};
struct AttentionForward {
  Tensor out, log_sum_exp;
};
AttentionForward softmax_attention_fwd(Context& ctx, const AttentionInputs& in);

/// total ← attention over the keys of both, for the same queries over disjoint keys (ring attention): with
/// L = log(e^La + e^Lb), out = e^(La − L) outa + e^(Lb − L) outb. `ranges` are part's: a query that reads
/// none of its keys keeps its total; one that reads some has read some of total's. Backward over either's
/// keys takes the merged total: P and δ are of the whole softmax. total's out is of the part's dtype or, for
/// many merges, of its accumulation_dtype.
void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges& ranges);

struct AttentionBackward {
  Tensor dq, dk, dv;
};
AttentionBackward softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                                        const AttentionForward& forward);

/// A call's sizes, which need no tensors; dtype: of q, k and v, which are equally wide.
struct AttentionShape {
  int64_t batch, num_queries, num_keys, heads, kv_heads, head_dim;
  DType dtype;
  /// From one block of queries to the next, few keys are read for the first time: causal masks and windows of
  /// queries that begin with the keys.
  bool staggered;
};
/// Bytes that backward takes beside its operands and the gradients it returns.
int64_t softmax_attention_bwd_bytes(Device device, const AttentionShape& shape);

// F32 or F64.
namespace cpu {
/// Each thread's blocks of scores.
Tensor attention_scratch(Context& ctx, DType dtype, int num_blocks);
void softmax_attention_fwd(Context& ctx, const AttentionInputs& in, const AttentionForward& forward);
void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges& ranges);
/// grads hold zeros.
void softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& forward, const AttentionBackward& grads);
}  // namespace cpu

namespace cuda {
int64_t softmax_attention_bwd_bytes(const AttentionShape& shape);
void softmax_attention_fwd(Context& ctx, const AttentionInputs& in, const AttentionForward& forward);
void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges& ranges);
/// Writes every element of grads.
void softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& forward, const AttentionBackward& grads);
}  // namespace cuda

}  // namespace spanwise
