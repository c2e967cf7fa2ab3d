#include "core/ops/l2_norm.h"

#include "core/dispatch.h"

namespace spanwise {

Var l2_norm(Tape& tape, const Var& x, double eps) {
  Context& ctx = tape.context();
  const DType dtype = x.value().dtype();
  const Var out = tape.output(Tensor::empty(ctx, x.shape(), dtype), {x});
  const Tensor rstd = Tensor::empty(ctx, {x.value().numel() / x.dim(-1)}, accumulation_dtype(dtype));
  SPANWISE_DISPATCH(ctx, l2_norm_fwd, ctx, x.value(), eps, out.value(), rstd);
  tape.record({x}, {out}, [&ctx, x, out, rstd] {
    const Tensor dx = Tensor::empty(ctx, out.shape(), out.value().dtype());
    SPANWISE_DISPATCH(ctx, l2_norm_bwd, ctx, out.grad(), out.value(), rstd, dx);
    x.add_grad(ctx, dx);
  });
  return out;
}

}  // namespace spanwise
