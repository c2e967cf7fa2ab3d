#pragma once
// What a backend gives for a family of linear_state.h: kernels on calls cut into chunks, and what they take
// beside operands and results.

#include <vector>

#include "core/ops/linear_state.h"

namespace spanwise {

/// Segments of a call that a kernel works on.
enum class SegmentSet {
  kAll,
  kContinuing,  ///< the rows' first ones, where they go on from the incoming state
  kStarting,    ///< the others
  kEndingRow,   ///< the rows' last ones
  kInsideRow,   ///< the others
  kPassing,     ///< those that fill a row and go on from the incoming state
};

/// Tokens cut into chunks that never cross a segment.
class ChunkList {
 public:
  struct Chunk {
    int64_t begin;   ///< flat token index row·T + t
    int64_t length;  ///< 1 … C
    int64_t state;   ///< index of the saved state before it; -1 for a segment's first chunk
  };
  /// The chunks [first, last) of one segment. Segments do not depend on each other.
  struct SegmentChunks {
    int64_t row, first, last;
    bool continues;  ///< starts from initial_state
    bool ends_row;   ///< gives final_state
  };
  ChunkList(const SequenceLayout& layout, int64_t chunk);

  const std::vector<Chunk>& chunks() const { return chunks_; }
  std::vector<SegmentChunks> select(SegmentSet which) const;
  int64_t num_states() const { return num_states_; }
  int64_t max_length() const { return max_length_; }

 private:
  std::vector<Chunk> chunks_;
  std::vector<SegmentChunks> segments_;
  int64_t num_states_ = 0, max_length_ = 0;
};

/// Σ of_chunk(tokens) over the chunks of the segments `which` names.
template <class F>
double sum_over_chunks(const ChunkList& list, SegmentSet which, F&& of_chunk) {
  double sum = 0;
  for (const ChunkList::SegmentChunks& segment : list.select(which)) {
    for (int64_t i = segment.first; i < segment.last; ++i)
      sum += of_chunk(double(list.chunks()[size_t(i)].length));
  }
  return sum;
}

/// One call, as kernels read it. Operands that the family does not take, or that were not given, are
/// undefined.
struct LinearStateCall : LinearOperands<Tensor> {
  ChunkList chunks;
  double scale;
};
LinearStateShape shape_of(const LinearOperands<Tensor>& x);

/// Bytes that a call takes beside its operands, its results and their gradients. gated_delta_bytes and
/// scalar_decay_bytes give them for rows that are one document each, or spans of one.
struct LinearStateBytes {
  int64_t saved = 0;                    ///< what allocate_saved() makes
  int64_t forward = 0;                  ///< temporaries
  int64_t backward = 0;                 ///< temporaries, without an exchange
  int64_t local_bwd = 0, fold_bwd = 0;  ///< temporaries of the two parts of backward with one
};

struct LinearStateForward {
  Tensor out, final_state;
  std::vector<Tensor> saved;  ///< as allocate_saved() made it, to be written; empty: nothing is saved
};

/// What backward starts from.
struct LinearStateCotangents {
  std::vector<Tensor> saved;  ///< as forward wrote it
  Tensor dout;
  Tensor dfinal_state;  ///< or undefined
};

/// Of each operand its gradient. Written (=); undefined ones are not computed; initial_state's comes zeroed.
using LinearStateGradients = LinearOperands<Tensor>;

/// Which of a family's kernels.
enum class LinearStage { kForward, kBackward, kSummarize, kLocal, kFold, kDstate, kLocalBwd, kFoldBwd };
/// What a stage's temporaries depend on beside the call: whether its kernel is given a `saved` that is not
/// empty, a summary to write, dlog_decay, dfinal_state. Forward and backward are of all segments.
struct LinearStageInput {
  LinearStage stage;
  bool saves = false, summary = false, dlog_decay = false, dfinal_state = false;
};
/// A family on one device.
struct LinearStateKernels {
  // Of the device, in every build and on dry Contexts.
  /// What forward of this call saves for backward, uninitialised.
  std::vector<Tensor> (*allocate_saved)(Context&, const LinearStateCall&);
  /// What summarize() leaves for local() and fold() where nothing is saved; may be empty.
  std::vector<Tensor> (*allocate_passed)(Context&, const LinearStateCall&);
  /// Takes and gives back what a stage's kernel does beside operands, results and what is allocated above.
  void (*temporaries)(Context&, const LinearStateCall&, const LinearStageInput&);

  // Kernels: none in a build without them.
  void (*forward)(Context&, const LinearStateCall&, SegmentSet, const LinearStateForward&);
  void (*backward)(Context&, const LinearStateCall&, SegmentSet, const LinearStateCotangents&,
                   const LinearStateGradients&);
  // Forward of spans, in this order. summarize and local run without an initial_state, fold with the incoming
  // one; together they write what forward does.
  /// Writes the summary, whose dense transition comes zeroed; nullptr when it is not needed.
  void (*summarize)(Context&, const LinearStateCall&, const SpanSummary*, const LinearStateForward&);
  /// nullptr: forward, of kStarting and of kContinuing.
  void (*local)(Context&, const LinearStateCall&, const LinearStateForward&);
  void (*fold)(Context&, const LinearStateCall&, const LinearStateForward&);
  // Backward of spans, in this order. local_bwd runs without dfinal_state, fold_bwd with it; together they
  // write what backward does.
  /// Writes D for rows that continue.
  void (*dstate)(Context&, const LinearStateCall&, const LinearStateCotangents&, const Tensor& dstate_in);
  /// nullptr: backward, of kInsideRow and of kEndingRow.
  void (*local_bwd)(Context&, const LinearStateCall&, const LinearStateCotangents&,
                    const LinearStateGradients&);
  void (*fold_bwd)(Context&, const LinearStateCall&, const LinearStateCotangents&,
                   const LinearStateGradients&);
  /// linear_state_step, into out.
  void (*step)(Context&, const LinearOperands<Tensor>&, double scale, const Tensor& out);
};

/// allocate_passed of kernels that pass nothing.
inline std::vector<Tensor> allocate_nothing(Context&, const LinearStateCall&) {
  return {};
}
/// {[num_states, HV, K, V]}: the state before every chunk but a segment's first, what the CPU saves.
std::vector<Tensor> allocate_chunk_states(Context& ctx, const LinearStateCall& call);
int64_t chunk_state_bytes(const LinearStateShape& shape, const ChunkList& chunks);
/// A gradient of q or k as kernels keep it, per value head, before it is summed.
int64_t value_head_gradient_bytes(const LinearStateShape& shape);

/// What a token writes into the state, S ← e^g S + k wᵀ: w = v, or the delta rule's β (v − e^g Sᵀ k).
enum class StateWrite { kValue, kDelta };

}  // namespace spanwise
