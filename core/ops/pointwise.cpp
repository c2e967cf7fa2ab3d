#include "core/ops/pointwise.h"

#include "core/dispatch.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

namespace work {
constexpr Moves add, multiply, activation_fwd, activation_bwd;
}
namespace dry {
constexpr NoTemporaries add, multiply, activation_fwd, activation_bwd;
}

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
  tape.record({a, b}, {out}, [&ctx, a = a.adjoint(), b = b.adjoint(), out = out.adjoint()] {
    a.add_grad(ctx, out.grad());
    b.add_grad(ctx, out.grad());
  });
  return out;
}

Var multiply(Tape& tape, const Var& a, const Var& b) {
  check_equal_shapes("multiply", "a", a.value(), "b", b.value());
  Context& ctx = tape.context();
  const auto product = [&ctx](const Tensor& of, const Tensor& and_of) {
    Tensor y = empty_like(ctx, of);
    SPANWISE_DISPATCH(ctx, multiply, ctx, of, and_of, y);
    return y;
  };
  const Var out = tape.output(product(a.value(), b.value()), {a, b});
  const Saved of = a.saved(), and_of = b.saved();
  tape.recompute_by(out, [product, of, and_of] { return product(of.get(), and_of.get()); });
  tape.record({a, b}, {out},
              [&ctx, product, of, and_of, a = a.adjoint(), b = b.adjoint(), out = out.adjoint()] {
                if (a.requires_grad()) a.add_grad(ctx, product(out.grad(), and_of.get()));
                if (b.requires_grad()) b.add_grad(ctx, product(out.grad(), of.get()));
              });
  return out;
}

Var activation(Tape& tape, const Var& x, Activation kind) {
  if (kind == Activation::kNone) return x;
  Context& ctx = tape.context();
  const auto forward = [&ctx, kind](const Tensor& of) {
    Tensor y = empty_like(ctx, of);
    SPANWISE_DISPATCH(ctx, activation_fwd, ctx, of, kind, y);
    return y;
  };
  const Var out = tape.output(forward(x.value()), {x});
  const Saved of = x.saved();
  tape.recompute_by(out, [forward, of] { return forward(of.get()); });
  tape.record({x}, {out}, [&ctx, of, kind, x = x.adjoint(), out = out.adjoint()] {
    const Tensor before = of.get(), dx = empty_like(ctx, before);
    SPANWISE_DISPATCH(ctx, activation_bwd, ctx, out.grad(), before, kind, dx);
    x.add_grad(ctx, dx);
  });
  return out;
}

}  // namespace spanwise
