#include "core/ops/pointwise.h"

#include "core/dispatch.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

namespace {
Tensor empty_like(Context& ctx, const Tensor& t) {
  return Tensor::empty(ctx, t.shape(), t.dtype());
}
}  // namespace

Var add(Tape& tape, const Var& a, const Var& b) {
  check_equal_shapes("add", "a", a.value(), "b", b.value());
  Context& ctx = tape.context();
  const Var out = tape.output(empty_like(ctx, a.value()), {a, b});
  SPANWISE_DISPATCH(ctx, add, ctx, a.value(), b.value(), out.value());
  tape.record({a, b}, {out}, [&ctx, a, b, out] {
    a.add_grad(ctx, out.grad());
    b.add_grad(ctx, out.grad());
  });
  return out;
}

Var multiply(Tape& tape, const Var& a, const Var& b) {
  check_equal_shapes("multiply", "a", a.value(), "b", b.value());
  Context& ctx = tape.context();
  const Var out = tape.output(empty_like(ctx, a.value()), {a, b});
  SPANWISE_DISPATCH(ctx, multiply, ctx, a.value(), b.value(), out.value());
  tape.record({a, b}, {out}, [&ctx, a, b, out] {
    const auto add_product = [&](const Var& input, const Var& other) {
      if (!input.requires_grad()) return;
      const Tensor d = empty_like(ctx, input.value());
      SPANWISE_DISPATCH(ctx, multiply, ctx, out.grad(), other.value(), d);
      input.add_grad(ctx, d);
    };
    add_product(a, b);
    add_product(b, a);
  });
  return out;
}

Var activation(Tape& tape, const Var& x, Activation kind) {
  if (kind == Activation::kNone) return x;
  Context& ctx = tape.context();
  const Var out = tape.output(empty_like(ctx, x.value()), {x});
  SPANWISE_DISPATCH(ctx, activation_fwd, ctx, x.value(), kind, out.value());
  tape.record({x}, {out}, [&ctx, x, out, kind] {
    const Tensor dx = empty_like(ctx, x.value());
    SPANWISE_DISPATCH(ctx, activation_bwd, ctx, out.grad(), x.value(), kind, dx);
    x.add_grad(ctx, dx);
  });
  return out;
}

}  // namespace spanwise
