#pragma once
// A span of tokens acts on a recurrent state as an affine map, S_out = M·S_in + B. When a sequence is cut
// into spans that different ranks hold, each row of a linear-state op is one span: the op summarises it,
// hands the summary to a SpanExchange, works on what needs no state, and goes on from the incoming state it
// gets back. Backward the same, right to left: dS_in = Mᵀ·dS_out + D, with forward's M. The core knows this
// interface, not the ranks behind it.
//
//   rows R, value heads HV; all tensors contiguous, of the op's dtype (states are F32 at least)
//   M is e^log_decay (a number a head) or dense [K, K]; a row whose tokens start a document passes nothing
//   on: the exchange, which knows the documents, takes its M as zero.

#include <memory>

#include "core/tensor.h"

namespace spanwise {

struct SpanSummary {
  Tensor log_decay;   ///< [R, HV], Σ g over the row; undefined: no decay, or dense
  Tensor transition;  ///< [R, HV, K, K], S_out = transition · S_in; undefined unless dense
  Tensor state;       ///< [R, HV, K, V]: B, the row's last state had it started from zero
};

/// The incoming states, and what backward needs of the other spans (their M).
struct IncomingState {
  Tensor state;  ///< [R, HV, K, V]; zero where the row starts a document
  std::shared_ptr<const void> saved;
};

class SpanExchange {
 public:
  virtual ~SpanExchange() = default;

  /// Started: the caller computes, then calls wait() once.
  class Forward {
   public:
    virtual ~Forward() = default;
    virtual IncomingState wait() = 0;
  };
  virtual std::unique_ptr<Forward> start_forward(const SpanSummary& summary) = 0;

  class Backward {
   public:
    virtual ~Backward() = default;
    /// Gradients of the rows' last states, [R, HV, K, V].
    virtual Tensor wait() = 0;
  };
  /// `dstate_in` [R, HV, K, V]: D, the gradient of each row's incoming state had its last state none; zero
  /// for rows that start a document. `saved` is forward's.
  virtual std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                                   const std::shared_ptr<const void>& saved) = 0;
};

}  // namespace spanwise
