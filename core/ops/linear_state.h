#pragma once
// What the linear-attention families with one decay a head share (scalar_decay.h, gated_delta.h): a matrix
// state S [K, V] for every value head, read and written once a token, computed in chunks of C tokens.
//
//   B rows, T tokens, H key heads, HV value heads (a multiple of H; head j uses key head j·H/HV)
//   q, k [B,T,H,K]  v, out [B,T,HV,V]  log_decay, beta [B,T,HV]  states [B,HV,K,V]
//   q, k, v, log_decay and beta may be column blocks. q, k, v, out: any float dtype, all equal; decays, beta,
//   states and span summaries: its accumulation_dtype.
//
// Segments: the state is zero where a document starts; a row's first segment goes on from initial_state (zero
// if undefined) when it continues a document, and only then has initial_state a gradient. final_state is the
// state after each row's last token; its gradient reaches the row's last segment alone.
//
// Spans (options.exchange, span.h): the op summarises its rows, starts the exchange, computes what needs no
// incoming state, waits, and goes on; backward likewise. What is computed meanwhile: for scalar decay all but
// the states' part of out, and in backward of dk, dv and dg; for the delta rule the documents that start
// inside the row, in backward those that end there. Scalar decay's forward summary is a by-product; the delta
// rule scans each row's last segment for it, states only, and backward scans each row's first segment.
//
// Memory: training saves the operands and (unless options.recompute) what the backend's allocate_saved()
// makes. On the CPU that is the state before every chunk but a segment's first, at most K·V/C elements a
// token and value head; backward recomputes the rest chunk by chunk. While it runs with HV > H, dq and dk are
// kept per value head, then summed in order. With an exchange scalar decay also needs the chunks' states
// while an inference forward runs, and always dk per value head.

#include <vector>

#include "core/autograd.h"
#include "core/ops/span.h"
#include "core/sequence_layout.h"

namespace spanwise {

struct LinearStateOptions {
  double scale;        ///< multiplies out; K^-1/2 by convention
  int64_t chunk = 64;  ///< tokens a chunk: C
  /// Given: every row is a span of a longer sequence, and rows that continue a document go on from the state
  /// this hands them; initial_state must be undefined then, and final_state takes no gradient. Must outlive
  /// backward. Not called again when a checkpointed segment is recomputed.
  SpanExchange* exchange = nullptr;
  /// Keep neither out nor what forward saves beside the operands: backward runs the forward again. It does
  /// not exchange again.
  bool recompute = false;
};

struct LinearStateResult {
  Var out;          ///< [B,T,HV,V]
  Var final_state;  ///< [B,HV,K,V], after each row's last token
};

/// One token a row, for generation. `state` is updated in place; out is [B,HV,V]. Records nothing.
struct LinearStateStep {
  Tensor q, k;            ///< [B,H,K]
  Tensor v;               ///< [B,HV,V]
  Tensor log_decay;       ///< [B,HV] or undefined
  Tensor head_log_decay;  ///< [HV] or undefined; at most one of the two
  Tensor beta;            ///< [B,HV]; gated_delta only
  Tensor state;           ///< [B,HV,K,V], contiguous
  double scale;
};

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

/// The operands of one call, as kernels read them. Undefined: log_decay or head_log_decay or both, beta
/// (scalar decay), initial_state.
struct LinearStateCall {
  Tensor q, k, v, log_decay, head_log_decay, beta, initial_state;
  ChunkList chunks;
  double scale;
};

/// A call's sizes, which need no tensors.
struct LinearStateShape {
  int64_t rows, length, key_heads, value_heads, key_dim, value_dim;
  DType dtype;       ///< of q, k and v
  bool token_decay;  ///< there is a log_decay
  int64_t tokens() const { return rows * length; }
};
LinearStateShape shape_of(const LinearStateCall& call);

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

/// Written (=). Undefined members are not computed; dinitial_state comes zeroed.
struct LinearStateGradients {
  Tensor dq, dk, dv, dlog_decay, dbeta, dinitial_state;
};

/// The part of both Var functions that does not depend on the family: checks, allocates, runs, exchanges,
/// records.
struct LinearStateVars {
  Var q, k, v, log_decay;
  Tensor head_log_decay;
  Var beta, initial_state;
};
/// Which of a family's kernels.
enum class LinearStage { kForward, kBackward, kSummarize, kLocal, kFold, kDstate, kLocalBwd, kFoldBwd };
/// What a stage's temporaries depend on beside the call: whether its kernel is given a `saved` that is not
/// empty, a summary to write, dlog_decay, dfinal_state. Forward and backward are of all segments.
struct LinearStageInput {
  LinearStage stage;
  bool saves = false, summary = false, dlog_decay = false, dfinal_state = false;
};
/// Floating-point operations of a call, as the family's header counts them.
struct LinearStateFlops {
  double forward;  ///< backward's are twice as many
  double summary;  ///< of a span's, and of D, the gradient of its incoming state
};

struct LinearStateKernels {
  // Of the device, in every build and on dry Contexts.
  /// What forward of this call saves for backward, uninitialised.
  std::vector<Tensor> (*allocate_saved)(Context&, const LinearStateCall&);
  /// What summarize() leaves for local() and fold() where nothing is saved; may be empty.
  std::vector<Tensor> (*allocate_passed)(Context&, const LinearStateCall&);
  /// Takes and gives back what a stage's kernel does beside operands, results and what is allocated above.
  void (*temporaries)(Context&, const LinearStateCall&, const LinearStageInput&);
  LinearStateFlops (*flops)(const LinearStateShape&, const ChunkList&);

  // Kernels: none on a dry Context.
  void (*forward)(Context&, const LinearStateCall&, SegmentSet, const LinearStateForward&);
  void (*backward)(Context&, const LinearStateCall&, SegmentSet, const LinearStateCotangents&,
                   const LinearStateGradients&);
  // Forward of spans, in this order. summarize and local run without an initial_state, fold with the incoming
  // one; together they write what forward does.
  /// Writes the summary, whose transition comes zeroed; nullptr when it is not needed.
  void (*summarize)(Context&, const LinearStateCall&, const SpanSummary*, const LinearStateForward&);
  void (*local)(Context&, const LinearStateCall&, const LinearStateForward&);
  void (*fold)(Context&, const LinearStateCall&, const LinearStateForward&);
  // Backward of spans, in this order. local_bwd runs without dfinal_state, fold_bwd with it; together they
  // write what backward does.
  /// Writes D for rows that continue.
  void (*dstate)(Context&, const LinearStateCall&, const LinearStateCotangents&, const Tensor& dstate_in);
  void (*local_bwd)(Context&, const LinearStateCall&, const LinearStateCotangents&,
                    const LinearStateGradients&);
  void (*fold_bwd)(Context&, const LinearStateCall&, const LinearStateCotangents&,
                   const LinearStateGradients&);
};
LinearStateResult linear_state(Tape& tape, const LinearStateVars& operands, const SequenceLayout& layout,
                               const LinearStateOptions& options, const LinearStateKernels& kernels);

/// allocate_passed of kernels that pass nothing.
inline std::vector<Tensor> allocate_nothing(Context&, const LinearStateCall&) {
  return {};
}
/// {[num_states, HV, K, V]}: the state before every chunk but a segment's first, what the CPU saves.
std::vector<Tensor> allocate_chunk_states(Context& ctx, const LinearStateCall& call);
int64_t chunk_state_bytes(const LinearStateShape& shape, const ChunkList& chunks);
/// A gradient of q or k as kernels keep it, per value head, before it is summed.
int64_t value_head_gradient_bytes(const LinearStateShape& shape);

/// What a step's kernel takes: on the CPU what is written to the state, as large as out.
namespace dry {
struct LinearStepTemporaries {
  void operator()(Context& ctx, const LinearStateStep&, const Tensor& out) const {
    if (ctx.device() == Device::kCPU) Tensor::empty(ctx, out.shape(), out.dtype());
  }
};
}  // namespace dry

/// Checks shapes and dtypes; returns out, allocated.
Tensor check_linear_state_step(Context& ctx, const LinearStateStep& step);

}  // namespace spanwise
