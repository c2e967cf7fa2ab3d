#include "core/ops/swiglu.h"

#include "core/dispatch.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

Var swiglu(Tape& tape, const Var& gate, const Var& up) {
  check_equal_shapes("swiglu", "gate", gate.value(), "up", up.value());
  Context& ctx = tape.context();
  const Var out = tape.output(Tensor::empty(ctx, gate.shape(), gate.value().dtype()), {gate, up});
  SPANWISE_DISPATCH(ctx, swiglu_fwd, ctx, gate.value(), up.value(), out.value());
  tape.record({gate, up}, {out}, [&ctx, gate, up, out] {
    const Tensor dgate = Tensor::empty(ctx, gate.shape(), gate.value().dtype());
    const Tensor dup = Tensor::empty(ctx, gate.shape(), gate.value().dtype());
    SPANWISE_DISPATCH(ctx, swiglu_bwd, ctx, out.grad(), gate.value(), up.value(), dgate, dup);
    gate.add_grad(ctx, dgate);
    up.add_grad(ctx, dup);
  });
  return out;
}

}  // namespace spanwise
