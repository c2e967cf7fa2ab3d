#include "core/ops/gated_rms_norm.h"

#include "core/dispatch.h"
#include "core/ops/dry_norm.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

namespace work {
Work gated_rms_norm_fwd(const Context&, const GatedNormInputs& in, double, const Tensor& y,
                        const Tensor& rstd) {
  return {.bytes = bytes_of(in.x, in.gate, in.weight, y, rstd)};
}
Work gated_rms_norm_bwd(const Context&, const Tensor& dy, const GatedNormInputs& in, const Tensor& rstd,
                        const GatedNormGradients& g) {
  return {.bytes = bytes_of(dy, in.x, in.gate, in.weight, rstd, g.dx, g.dgate, g.dweight)};
}
}  // namespace work

namespace dry {

void gated_rms_norm_fwd(const Context&, const GatedNormInputs& in, double, const Tensor&,
                        const Tensor& rstd) {
  if (in.options.part.divided()) in.options.part.sum(rstd);
}

void gated_rms_norm_bwd(Context& ctx, const Tensor& dy, const GatedNormInputs& in, const Tensor& rstd,
                        const GatedNormGradients& g) {
  dry_norm_bwd(ctx, in.x, in.weight, rstd, {&dy, &in.x, &in.gate, &g.dx, &g.dgate}, in.options.part);
}

}  // namespace dry

Var gated_rms_norm(Tape& tape, const Var& x, const Var& gate, const Var& weight, double eps,
                   GatedNormOptions options) {
  const Activation phi = options.gate_activation;
  SPANWISE_CHECK(phi == Activation::kSiLU || phi == Activation::kSigmoid,
                 "gated_rms_norm: gate activation {} is not supported (kSiLU, kSigmoid are)", int(phi));
  GatedNormInputs in{x.value(), gate.value(), weight.saved().get(), options};
  in.options.part = reduced_once(tape, options.part);
  check_equal_shapes("gated_rms_norm", "x", in.x, "gate", in.gate);
  check_norm_weight("gated_rms_norm", in.x, in.weight);

  Context& ctx = tape.context();
  struct Result {
    Tensor out, rstd;
  };
  const auto forward = [&ctx, eps](const GatedNormInputs& of) {
    const DType dtype = of.x.dtype();
    const Result r{Tensor::empty(ctx, of.x.shape(), dtype),
                   Tensor::empty(ctx, {of.x.numel() / of.x.dim(-1)}, accumulation_dtype(dtype))};
    SPANWISE_DISPATCH(ctx, gated_rms_norm_fwd, ctx, of, eps, r.out, r.rstd);
    return r;
  };
  const Result result = forward(in);
  const Var out = tape.output(result.out, {x, gate, weight});
  const auto saved = [options, x = x.saved(), gate = gate.saved(), weight = weight.saved()] {
    return GatedNormInputs{x.get(), gate.get(), weight.get(), options};
  };
  // A divided row's statistics come from other ranks: its norm is kept.
  if (!options.part.divided()) tape.recompute_by(out, [forward, saved] { return forward(saved()).out; });
  tape.record({x, gate, weight}, {out},
              [&ctx, saved, rstd = result.rstd, x = x.adjoint(), gate = gate.adjoint(),
               weight = weight.adjoint(), out = out.adjoint()] {
                const GatedNormInputs of = saved();
                GatedNormGradients grads;
                grads.dx = Tensor::empty(ctx, of.x.shape(), of.x.dtype());
                grads.dgate = Tensor::empty(ctx, of.x.shape(), of.x.dtype());
                if (weight.defined())
                  grads.dweight = Tensor::empty(ctx, of.weight.shape(), of.weight.dtype());
                SPANWISE_DISPATCH(ctx, gated_rms_norm_bwd, ctx, out.grad(), of, rstd, grads);
                x.add_grad(ctx, grads.dx);
                gate.add_grad(ctx, grads.dgate);
                if (weight.defined()) weight.add_grad(ctx, grads.dweight);
              });
  return out;
}

}  // namespace spanwise
