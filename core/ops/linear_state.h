#pragma once
// What the linear-attention families with one decay a head share (scalar_decay.h, gated_delta.h): a matrix
// state S [K, V] for every value head, read and written once a token, computed in chunks of C tokens.
//
//   operands, with their shapes: linear_operands.h    out [B,T,HV,V]    states [B,HV,K,V]
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

#include "core/autograd.h"
#include "core/memory.h"
#include "core/ops/linear_operands.h"
#include "core/ops/span.h"
#include "core/sequence_layout.h"

namespace spanwise {

struct LinearStateOptions {
  double scale;        ///< multiplies out; K^-1/2 by convention
  int64_t chunk = 64;  ///< tokens a chunk: C
  /// Given: every row is a span of a longer sequence, and rows that continue a document go on from the state
  /// this hands them; initial_state must be undefined then, and final_state takes no gradient. Must outlive
  /// backward. Not called again when a checkpointed section is recomputed.
  SpanExchange* exchange = nullptr;
  /// Keep neither out nor what forward saves beside the operands: backward runs the forward again. It does
  /// not exchange again.
  bool recompute = false;
};

struct LinearStateResult {
  Var out;          ///< [B,T,HV,V]
  Var final_state;  ///< [B,HV,K,V], after each row's last token
};

class ChunkList;
struct LinearStateBytes;
struct LinearStateKernels;

/// Floating-point operations of a call, as the family's header counts them.
struct LinearStateFlops {
  double forward;  ///< backward's are twice as many
  double summary;  ///< of a span's summary
  double dstate;   ///< of D, the gradient of a span's incoming state
};

/// A family is one constant: what its recurrence reads, what a span of it does to a state, and its kernels
/// (linear_kernels.h).
struct LinearFamily {
  const char* name;
  TransitionKind transition;      ///< of a call without any decay, kScalar and kDiagonal are kIdentity
  LinearOperandSet needs, takes;  ///< must be there; may be there
  LinearStateFlops (*flops)(const LinearStateShape&, const ChunkList&);
  double step_flops;  ///< of a step, for an element of the state
  LinearStateKernels (*kernels)(Device);
};

/// Checks, allocates, runs, exchanges, records: what does not depend on the family.
LinearStateResult linear_state(Tape& tape, const LinearFamily& family, const LinearOperands<Var>& x,
                               const SequenceLayout& layout, const LinearStateOptions& options);

/// One token a row (T = 1), for generation: returns out, [B,1,HV,V]. x.initial_state, which is contiguous, is
/// overwritten with the state after the token. Records nothing.
Tensor linear_state_step(Context& ctx, const LinearFamily& family, const LinearOperands<Tensor>& x,
                         double scale);

}  // namespace spanwise
