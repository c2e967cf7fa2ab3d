#pragma once
// The algebra of span summaries (span.h) for one row, on tensors: what exchanges of states are folded with.
//
//   apply             out = M·S + B              S, B, out [HV, K, V]
//   apply_transposed  out = Mᵀ·dS + D
//   compose           M = later · earlier
//
// F32 or F64 (on a GPU F32), all equal and contiguous; every sum has one fixed order.

#include "core/ops/span.h"

namespace spanwise {

// M is one row's, of [HV] heads; the kinds of two that are composed are equal.
Tensor apply_transition(Context& ctx, const SpanTransition& m, const Tensor& state, const Tensor& added);
Tensor apply_transition_transposed(Context& ctx, const SpanTransition& m, const Tensor& dstate,
                                   const Tensor& added);
SpanTransition compose_transitions(Context& ctx, const SpanTransition& later, const SpanTransition& earlier);

/// op of multiply_heads.
enum class HeadOperand { kPlain, kTransposed };

namespace cpu {
/// a [HV, N, K] (transposed: [HV, K, N]) and b [HV, K, C]: out [HV, N, C] = op(a)·b + added per head; added
/// may be undefined (none).
void multiply_heads(const Context& ctx, const Tensor& a, HeadOperand op, const Tensor& b, const Tensor& added,
                    const Tensor& out);
/// out = e^log_decay · state + added, with log_decay [HV], [HV, K] (a number for each row of the state), or
/// undefined: 0.
void decay_heads(const Context& ctx, const Tensor& log_decay, const Tensor& state, const Tensor& added,
                 const Tensor& out);
}  // namespace cpu
namespace cuda {
void multiply_heads(const Context& ctx, const Tensor& a, HeadOperand op, const Tensor& b, const Tensor& added,
                    const Tensor& out);
void decay_heads(const Context& ctx, const Tensor& log_decay, const Tensor& state, const Tensor& added,
                 const Tensor& out);
}  // namespace cuda

}  // namespace spanwise
