#include "core/ops/rms_norm.h"

#include "core/dispatch.h"
#include "core/ops/dry_norm.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

namespace work {
Work rms_norm_fwd(const Context&, const Tensor& x, const Tensor& residual, const Tensor& weight, double,
                  const RmsNormForward& out, const DimPart&) {
  return {.bytes = bytes_of(x, residual, weight, out.y, out.rstd, out.sum)};
}
Work rms_norm_bwd(const Context&, const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                  const Tensor& rstd, const RmsNormBackward& out, const DimPart&) {
  return {.bytes = bytes_of(dy, dsum, x, weight, rstd, out.dx, out.dweight)};
}
}  // namespace work

namespace dry {

void rms_norm_fwd(const Context&, const Tensor&, const Tensor&, const Tensor&, double,
                  const RmsNormForward& out, const DimPart& part) {
  if (part.divided()) part.sum(out.rstd);
}

void rms_norm_bwd(Context& ctx, const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                  const Tensor& rstd, const RmsNormBackward& out, const DimPart& part) {
  dry_norm_bwd(ctx, x, weight, rstd, {&dy, &dsum, &x, &out.dx}, part);
}

}  // namespace dry

RmsNormForward rms_norm_fwd(Context& ctx, const Tensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, const DimPart& part) {
  check_norm_weight("rms_norm", x, weight);
  RmsNormForward out;
  out.y = Tensor::empty(ctx, x.shape(), x.dtype());
  out.rstd = Tensor::empty(ctx, {x.numel() / x.dim(-1)}, accumulation_dtype(x.dtype()));
  if (residual.defined()) {
    SPANWISE_CHECK(residual.shape() == x.shape(), "residual {} and x {} differ", residual.shape().str(),
                   x.shape().str());
    out.sum = Tensor::empty(ctx, x.shape(), x.dtype());
  }
  SPANWISE_DISPATCH(ctx, rms_norm_fwd, ctx, x, residual, weight, eps, out, part);
  return out;
}

RmsNormBackward rms_norm_bwd(Context& ctx, const Tensor& dy, const Tensor& dsum, const Tensor& x,
                             const Tensor& weight, const Tensor& rstd, const DimPart& part) {
  RmsNormBackward out;
  out.dx = Tensor::empty(ctx, x.shape(), x.dtype());
  if (weight.defined()) out.dweight = Tensor::empty(ctx, weight.shape(), weight.dtype());
  SPANWISE_DISPATCH(ctx, rms_norm_bwd, ctx, dy, dsum, x, weight, rstd, out, part);
  return out;
}

namespace {

AddRmsNorm add_norm(Tape& tape, const Var& x, const Var& residual, const Var& weight, double eps,
                    const DimPart& part) {
  Context& ctx = tape.context();
  RmsNormForward f = rms_norm_fwd(ctx, x.value(), residual.saved().get(), weight.saved().get(), eps,
                                  reduced_once(tape, part));
  AddRmsNorm out;
  out.normed = tape.output(std::move(f.y), {x, residual, weight});
  out.sum = residual.defined() ? tape.output(std::move(f.sum), {x, residual}) : x;
  const Saved summed = out.sum.saved(), w = weight.saved();
  // A divided row's statistics come from other ranks: its norm is kept.
  if (!part.divided()) {
    tape.recompute_by(out.normed, [&ctx, summed, w, eps] {
      return rms_norm_fwd(ctx, summed.get(), Tensor(), w.get(), eps).y;
    });
  }
  std::vector<Adjoint> outputs{out.normed};
  if (residual.defined()) outputs.push_back(out.sum);
  tape.record({x, residual, weight}, outputs,
              [&ctx, summed, w, rstd = f.rstd, part, x = x.adjoint(), residual = residual.adjoint(),
               weight = weight.adjoint(), normed = out.normed.adjoint(), sum = out.sum.adjoint()] {
                const Tensor dsum = residual.defined() ? sum.grad() : Tensor();
                const RmsNormBackward b =
                    rms_norm_bwd(ctx, normed.grad_or_zeros(ctx), dsum, summed.get(), w.get(), rstd, part);
                x.add_grad(ctx, b.dx);
                residual.add_grad(ctx, b.dx);
                if (weight.defined()) weight.add_grad(ctx, b.dweight);
              });
  return out;
}

}  // namespace

Var rms_norm(Tape& tape, const Var& x, const Var& weight, double eps, const DimPart& part) {
  return add_norm(tape, x, Var(), weight, eps, part).normed;
}

AddRmsNorm add_rms_norm(Tape& tape, const Var& x, const Var& residual, const Var& weight, double eps) {
  return add_norm(tape, x, residual, weight, eps, {});
}

}  // namespace spanwise
