#pragma once
// What the linear-attention families with one decay a head share (scalar_decay.h, gated_delta.h): a matrix
// state S [K, V] for every value head, read and written once a token, computed in chunks of C tokens.
//
//   B rows, T tokens, H key heads, HV value heads (a multiple of H; head j uses key head j·H/HV)
//   q, k [B,T,H,K]  v, out [B,T,HV,V]  log_decay, beta [B,T,HV]  states [B,HV,K,V]
//   q, k, v, log_decay and beta may be column blocks. Any float dtype, all equal.
//
// Segments: the state is zero where a document starts; a row's first segment goes on from initial_state (zero
// if undefined) when it continues a document, and only then has initial_state a gradient. final_state is the
// state after each row's last token; its gradient reaches the row's last segment alone.
//
// Memory: training saves the operands and the state before every chunk but a segment's first, at most
// K·V/C elements a token and value head; backward recomputes the rest chunk by chunk. While it runs with
// HV > H, dq and dk are kept per value head, then summed in order.

#include <vector>

#include "core/autograd.h"
#include "core/sequence_layout.h"

namespace spanwise {

struct LinearStateOptions {
  double scale;        ///< multiplies out; K^-1/2 by convention
  int64_t chunk = 64;  ///< tokens a chunk: C
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

/// Tokens cut into chunks that never cross a segment.
class ChunkList {
 public:
  struct Chunk {
    int64_t begin;   ///< flat token index row·T + t
    int64_t length;  ///< 1 … C
    int64_t state;   ///< index of the saved state before it; -1 for a span's first chunk
  };
  /// The chunks [first, last) of one segment. Spans do not depend on each other.
  struct Span {
    int64_t row, first, last;
    bool continues;  ///< starts from initial_state
    bool ends_row;   ///< gives final_state
  };
  ChunkList(const SequenceLayout& layout, int64_t chunk);

  const std::vector<Chunk>& chunks() const { return chunks_; }
  const std::vector<Span>& spans() const { return spans_; }
  int64_t num_states() const { return num_states_; }
  int64_t max_length() const { return max_length_; }

 private:
  std::vector<Chunk> chunks_;
  std::vector<Span> spans_;
  int64_t num_states_ = 0, max_length_ = 0;
};

/// The operands of one call, as kernels read them. Undefined: log_decay or head_log_decay or both, beta
/// (scalar decay), initial_state.
struct LinearStateCall {
  Tensor q, k, v, log_decay, head_log_decay, beta, initial_state;
  ChunkList chunks;
  double scale;
};

struct LinearStateForward {
  Tensor out, final_state;
  Tensor chunk_states;  ///< [num_states, HV, K, V], or undefined: not saved
};

/// Written (=). Undefined members are not computed; dinitial_state comes zeroed.
struct LinearStateGradients {
  Tensor dq, dk, dv, dlog_decay, dbeta, dinitial_state;
};

/// The part of both Var functions that does not depend on the family: checks, allocates, runs, records.
struct LinearStateVars {
  Var q, k, v, log_decay;
  Tensor head_log_decay;
  Var beta, initial_state;
};
struct LinearStateKernels {
  void (*forward)(Context&, const LinearStateCall&, const LinearStateForward&);
  /// dfinal_state may be undefined.
  void (*backward)(Context&, const LinearStateCall&, const Tensor& chunk_states, const Tensor& dout,
                   const Tensor& dfinal_state, const LinearStateGradients&);
};
LinearStateResult linear_state(Tape& tape, const LinearStateVars& operands, const SequenceLayout& layout,
                               const LinearStateOptions& options, const LinearStateKernels& kernels);

/// Checks shapes; returns out, allocated.
Tensor check_linear_state_step(Context& ctx, const LinearStateStep& step);

}  // namespace spanwise
