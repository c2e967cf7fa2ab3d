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
  if (m.kind != TransitionKind::kIdentity)
    check_operand("apply_transition", "transition", m.values, transition_shape(m.kind, {heads}, keys),
                  state.dtype());
  if (m.kind == TransitionKind::kDense) {
    SPANWISE_DISPATCH(ctx, multiply_heads, ctx, m.values, op, state, added, out);
  } else {
    SPANWISE_DISPATCH(ctx, decay_heads, ctx, m.values, state, added, out);
  }
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
  SPANWISE_CHECK(later.kind == earlier.kind, "transitions of kinds {} and {} are not composed",
                 int(later.kind), int(earlier.kind));
  if (later.kind == TransitionKind::kIdentity) return {};
  check_equal_shapes("compose_transitions", "later", later.values, "earlier", earlier.values);
  const SpanTransition out{later.kind, Tensor::empty(ctx, later.values.shape(), later.values.dtype())};
  if (later.kind == TransitionKind::kDense) {
    SPANWISE_DISPATCH(ctx, multiply_heads, ctx, later.values, HeadOperand::kPlain, earlier.values, Tensor(),
                      out.values);
  } else {
    out.values.copy_from(later.values);
    accumulate(ctx, out.values, earlier.values);
  }
  return out;
}

}  // namespace spanwise
