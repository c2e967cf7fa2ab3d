#pragma once
// Softmax attention of local queries over keys and values that all sequence ranks hold parts of
// (parallel/sequence_parallel.h). Elements a rank receives, with n = R · capacity · HKV · (d + dv) of local
// keys and values and W ranks:
//
//               forward                             backward
//   all-gather  (W − 1) n                           (W − 1) n of gradients' sums
//   windowed    the halo's tokens · HKV · (d + dv)  the tokens given to others, the same
//   ring        (W − 1) n                           (W − 1) n, and (W − 1) n of gradients' sums
//   Ulysses     (W − 1) R · capacity · (h d + h' (d + dv)), h = H/W and h' = max(HKV/W, 1); on the way
//               back (W − 1) R · capacity · h dv; backward the same in the other order
//
// Counted under attention_forward, attention_backward and, for Ulysses, attention_*_return. What is summed
// over ranks is kept, and in the ring sent, in the accumulation_dtype, and rounded once at the end: rounded
// at every term, its error would grow with the ranks.

#include "core/autograd.h"
#include "core/ops/block_copy.h"
#include "core/ops/softmax_attention.h"
#include "parallel/comm.h"
#include "parallel/sequence_partition.h"

namespace spanwise {

/// q [R, capacity, H, d], k [R, capacity, HKV, d], v [R, capacity, HKV, dv].
struct SequenceAttention {
  Var q, k, v;
  int64_t window;
  double scale;

  struct Adjoints {
    Adjoint q, k, v;
  };
  Adjoints adjoints() const { return {q, k, v}; }
};

/// Keeps the whole rows' keys and values until backward.
Var all_gather_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in);
/// Fetches the window − 1 tokens before each local row, and keeps them with the local keys and values until
/// backward; window > 0.
Var window_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in);
/// Keys and values go round (Liu et al., arXiv 2310.01889); each rank merges what its queries read of a step.
Var ring_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in);
/// Trades tokens for heads and back (Jacobs et al., arXiv 2309.14509). UserError unless the query heads are a
/// multiple of the ranks and one of ranks and key heads is a multiple of the other: with fewer key heads than
/// ranks, several ranks get the same one.
Var ulysses_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in);

// What they share.

/// Keys [begin, end) of row `row` that token `token` of the whole row reads.
struct KeyRange {
  int64_t begin, end;
};
KeyRange causal_key_range(const SequencePlan& plan, int64_t row, int64_t token, int64_t window);
/// The ranges of this rank's queries [B, slots · capacity] in whole rows; empty for padding.
KeyRanges local_query_ranges(const SequencePlan& plan, int64_t window);
/// Blocks from all ranks' local rows of `width` elements a token, rank r's at r · rank_stride + offset, to
/// whole rows [B, T, width].
std::vector<MovedBlock> to_whole_rows(const SequencePlan& plan, int64_t rank_stride, int64_t offset,
                                      int64_t width);

}  // namespace spanwise
