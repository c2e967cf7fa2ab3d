#include "core/ops/l2_norm.h"

#include "core/dispatch.h"

namespace spanwise {

namespace work {
constexpr Moves l2_norm_fwd, l2_norm_bwd;
}
namespace dry {
constexpr NoTemporaries l2_norm_fwd, l2_norm_bwd;
}

Var l2_norm(Tape& tape, const Var& x, double eps) {
  Context& ctx = tape.context();
  struct Result {
    Tensor out, rstd;
  };
  const auto forward = [&ctx, eps](const Tensor& of) {
    const Result r{Tensor::empty(ctx, of.shape(), of.dtype()),
                   Tensor::empty(ctx, {of.numel() / of.dim(-1)}, accumulation_dtype(of.dtype()))};
    SPANWISE_DISPATCH(ctx, l2_norm_fwd, ctx, of, eps, r.out, r.rstd);
    return r;
  };
  const Result result = forward(x.value());
  const Var out = tape.output(result.out, {x});
  // Backward reads the result alone: to drop it saves something only where x is dropped, too.
  if (const Saved of = x.saved(); of.recomputable())
    tape.recompute_by(out, [forward, of] { return forward(of.get()).out; });
  tape.record({x}, {out}, [&ctx, y = out.saved(), rstd = result.rstd, x = x.adjoint(), out = out.adjoint()] {
    const Tensor dx = Tensor::empty(ctx, out.shape(), out.dtype());
    SPANWISE_DISPATCH(ctx, l2_norm_bwd, ctx, out.grad(), y.get(), rstd, dx);
    x.add_grad(ctx, dx);
  });
  return out;
}

}  // namespace spanwise
