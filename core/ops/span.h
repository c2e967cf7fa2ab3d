#pragma once
// A span of tokens acts on a recurrent state as an affine map, S_out = M·S_in + B. When a sequence is cut
// into spans that different ranks hold, each row of a linear-state op is one span: the op summarises it,
// hands the summary to a SpanExchange, works on what needs no state, and goes on from the incoming state it
// gets back. Backward the same, right to left: dS_in = Mᵀ·dS_out + D, with forward's M. The core knows this
// interface, not the ranks behind it.
//
//   rows R, value heads HV; all tensors contiguous, of the op's dtype (states are F32 at least)
//   a row whose tokens start a document passes nothing on: the exchange, which knows the documents, takes its
//   M as zero.

#include <memory>
#include <vector>

#include "core/tensor.h"

namespace spanwise {

/// What M is on the state [K, V] of one head. Composing spans of one kind gives that kind.
enum class TransitionKind {
  kIdentity,  ///< nothing decays
  kScalar,    ///< e^g · I
  kDiagonal,  ///< diag(e^g), a g for each of the K rows of the state
  kDense,     ///< any [K, K]
};
/// What says M of some heads: [heads…] and [heads…, K] of g, or [heads…, K, K] of M itself. No dimensions for
/// the identity.
Shape transition_shape(TransitionKind kind, Shape heads, int64_t key_dim);
/// Elements of that, a head.
int64_t transition_elems(TransitionKind kind, int64_t key_dim);

struct SpanTransition {
  TransitionKind kind = TransitionKind::kIdentity;
  Tensor values;  ///< of transition_shape, contiguous; undefined for the identity
};

struct SpanSummary {
  SpanTransition transition;  ///< of [R, HV]
  Tensor state;               ///< [R, HV, K, V]: B, the row's last state had it started from zero
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
