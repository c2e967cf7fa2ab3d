#include "core/ops/swiglu.h"

#include "core/dispatch.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

namespace work {
constexpr Moves swiglu_fwd, swiglu_bwd;
}
namespace dry {
constexpr NoTemporaries swiglu_fwd, swiglu_bwd;
}

Var swiglu(Tape& tape, const Var& gate, const Var& up) {
  check_equal_shapes("swiglu", "gate", gate.value(), "up", up.value());
  Context& ctx = tape.context();
  const auto forward = [&ctx](const Tensor& g, const Tensor& u) {
    Tensor product = Tensor::empty(ctx, g.shape(), g.dtype());
    SPANWISE_DISPATCH(ctx, swiglu_fwd, ctx, g, u, product);
    return product;
  };
  const Var out = tape.output(forward(gate.value(), up.value()), {gate, up});
  const Saved g = gate.saved(), u = up.saved();
  tape.recompute_by(out, [forward, g, u] { return forward(g.get(), u.get()); });
  tape.record({gate, up}, {out}, [&ctx, g, u, gate = gate.adjoint(), up = up.adjoint(), out = out.adjoint()] {
    const Tensor dgate = Tensor::empty(ctx, gate.shape(), gate.dtype());
    const Tensor dup = Tensor::empty(ctx, gate.shape(), gate.dtype());
    SPANWISE_DISPATCH(ctx, swiglu_bwd, ctx, out.grad(), g.get(), u.get(), dgate, dup);
    gate.add_grad(ctx, dgate);
    up.add_grad(ctx, dup);
  });
  return out;
}

}  // namespace spanwise
