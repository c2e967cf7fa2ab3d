#include "core/ops/span_fold.h"

#include "core/dispatch.h"
#include "core/ops/accumulate.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

// What folding summaries costs is no model's arithmetic.
namespace work {
Work multiply_heads(const Context&, const Tensor& a, HeadOperand, const Tensor& b, const Tensor& added,
                    const Tensor& out) {
  return {.recomputed_flops = 2.0 * double(a.numel()) * double(b.dim(2)),
          .bytes = bytes_of(a, b, added, out)};
}
constexpr Moves decay_heads;
}  // namespace work
namespace dry {
constexpr NoTemporaries multiply_heads, decay_heads;
}

namespace {

Tensor fold(Context& ctx, const SpanTransition& m, HeadOperand op, const Tensor& state, const Tensor& added) {
  check_equal_shapes("apply_transition", "state", state, "added", added);
  const int64_t heads = state.dim(0), keys = state.dim(1);
  const Tensor out = Tensor::empty(ctx, state.shape(), state.dtype());
  if (m.dense.defined()) {
    check_operand("apply_transition", "transition", m.dense, {heads, keys, keys}, state.dtype());
    SPANWISE_DISPATCH(ctx, multiply_heads, ctx, m.dense, op, state, added, out);
    return out;
  }
  if (m.log_decay.defined())
    check_operand("apply_transition", "log_decay", m.log_decay, {heads}, state.dtype());
  SPANWISE_DISPATCH(ctx, decay_heads, ctx, m.log_decay, state, added, out);
  return out;
}

}  // namespace

Tensor apply_transition(Context& ctx, const SpanTransition& m, const Tensor& state, const Tensor& added) {
  return fold(ctx, m, HeadOperand::kPlain, state, added);
}

Tensor apply_transition_transposed(Context& ctx, const SpanTransition& m, const Tensor& dstate,
                                   const Tensor& added) {
  return fold(ctx, m, HeadOperand::kTransposed, dstate, added);
}

SpanTransition compose_transitions(Context& ctx, const SpanTransition& later, const SpanTransition& earlier) {
  SpanTransition out;
  if (later.dense.defined()) {
    check_equal_shapes("compose_transitions", "later", later.dense, "earlier", earlier.dense);
    out.dense = Tensor::empty(ctx, later.dense.shape(), later.dense.dtype());
    SPANWISE_DISPATCH(ctx, multiply_heads, ctx, later.dense, HeadOperand::kPlain, earlier.dense, Tensor(),
                      out.dense);
  } else if (later.log_decay.defined()) {
    check_equal_shapes("compose_transitions", "later", later.log_decay, "earlier", earlier.log_decay);
    out.log_decay = Tensor::empty(ctx, later.log_decay.shape(), later.log_decay.dtype());
    out.log_decay.copy_from(later.log_decay);
    accumulate(ctx, out.log_decay, earlier.log_decay);
  }
  return out;
}

}  // namespace spanwise
