#include "core/ops/gated_rms_norm.h"

#include "core/dispatch.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

Var gated_rms_norm(Tape& tape, const Var& x, const Var& gate, const Var& weight, double eps,
                   GatedNormOptions options) {
  const Activation phi = options.gate_activation;
  SPANWISE_CHECK(phi == Activation::kSiLU || phi == Activation::kSigmoid,
                 "gated_rms_norm: gate activation {} is not supported (kSiLU, kSigmoid are)", int(phi));
  const GatedNormInputs in{x.value(), gate.value(), weight.defined() ? weight.value() : Tensor(), options};
  GatedNormInputs forward_in = in;
  forward_in.options.part = reduced_once(tape, options.part);
  check_equal_shapes("gated_rms_norm", "x", in.x, "gate", in.gate);
  check_norm_weight("gated_rms_norm", in.x, in.weight);

  Context& ctx = tape.context();
  const DType dtype = in.x.dtype();
  const Var out = tape.output(Tensor::empty(ctx, x.shape(), dtype), {x, gate, weight});
  const Tensor rstd = Tensor::empty(ctx, {in.x.numel() / in.x.dim(-1)}, accumulation_dtype(dtype));
  SPANWISE_DISPATCH(ctx, gated_rms_norm_fwd, ctx, forward_in, eps, out.value(), rstd);
  tape.record({x, gate, weight}, {out}, [&ctx, x, gate, weight, in, rstd, out] {
    GatedNormGradients grads;
    grads.dx = Tensor::empty(ctx, in.x.shape(), in.x.dtype());
    grads.dgate = Tensor::empty(ctx, in.x.shape(), in.x.dtype());
    if (weight.defined()) grads.dweight = Tensor::empty(ctx, in.weight.shape(), in.weight.dtype());
    SPANWISE_DISPATCH(ctx, gated_rms_norm_bwd, ctx, out.grad(), in, rstd, grads);
    x.add_grad(ctx, grads.dx);
    gate.add_grad(ctx, grads.dgate);
    if (weight.defined()) weight.add_grad(ctx, grads.dweight);
  });
  return out;
}

}  // namespace spanwise
