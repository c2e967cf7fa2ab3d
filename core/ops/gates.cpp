#include "core/ops/gates.h"

#include "core/dispatch.h"
#include "core/ops/cuda/common/temporaries.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

namespace work {
constexpr Moves decay_gate_fwd, scaled_sigmoid_fwd, scaled_sigmoid_bwd, head_skip_fwd, head_skip_bwd;
Work decay_gate_bwd(const Context&, const Tensor& dg, const Tensor& a, const Tensor& A_log,
                    const Tensor& dt_bias, const Tensor& g, const DecayGateGradients& d) {
  return {.bytes = bytes_of(dg, a, A_log, dt_bias, g, d.da, d.dA_log, d.ddt_bias)};
}
Work mamba2_gates_fwd(const Context&, const Mamba2GatesTensors& t) {
  return {.bytes = bytes_of(t.x, t.dt, t.A_log, t.dt_bias, t.delta, t.v, t.g)};
}
Work mamba2_gates_bwd(const Context&, const Tensor& dv, const Tensor& dg, const Mamba2GatesTensors& t,
                      const Mamba2GatesGradients& d) {
  return {.bytes = bytes_of(dv, dg, t.x, t.dt, t.A_log, t.dt_bias, t.delta, t.g) +
                   bytes_of(d.dx, d.ddt, d.dA_log, d.ddt_bias)};
}
}  // namespace work

namespace dry {

constexpr NoTemporaries decay_gate_fwd, scaled_sigmoid_fwd, scaled_sigmoid_bwd, mamba2_gates_fwd,
    head_skip_fwd;

/// On a GPU: partial sums over tokens, F32.
void sum_over_tokens(Context& ctx, int num_sums, int64_t tokens, int64_t heads) {
  if (ctx.device() == Device::kCUDA)
    Tensor::empty(ctx, cuda::head_partials(num_sums, tokens, heads), DType::kF32);
}

void decay_gate_bwd(Context& ctx, const Tensor&, const Tensor& a, const Tensor&, const Tensor&, const Tensor&,
                    const DecayGateGradients&) {
  sum_over_tokens(ctx, 2, a.numel() / a.dim(-1), a.dim(-1));
}

void mamba2_gates_bwd(Context& ctx, const Tensor&, const Tensor&, const Mamba2GatesTensors& t,
                      const Mamba2GatesGradients&) {
  if (ctx.device() == Device::kCPU) return;
  const Tensor dots = Tensor::empty(ctx, t.dt.shape(), DType::kF32);
  sum_over_tokens(ctx, 2, t.dt.numel() / t.dt.dim(-1), t.dt.dim(-1));
}

void head_skip_bwd(Context& ctx, const Tensor&, const Tensor& x, const Tensor&, const Tensor&,
                   const Tensor&) {
  if (ctx.device() == Device::kCPU) return;
  const int64_t heads = x.dim(2), tokens = x.numel() / (heads * x.dim(3));
  const Tensor dots = Tensor::empty(ctx, {tokens, heads}, DType::kF32);
  sum_over_tokens(ctx, 1, tokens, heads);
}

}  // namespace dry

namespace {
Tensor empty_like(Context& ctx, const Tensor& t) {
  return Tensor::empty(ctx, t.shape(), t.dtype());
}
Tensor empty_gate(Context& ctx, const Tensor& projection) {
  return Tensor::empty(ctx, projection.shape(), accumulation_dtype(projection.dtype()));
}
}  // namespace

Var decay_gate(Tape& tape, const Var& a, const Var& A_log, const Var& dt_bias) {
  const Shape heads{a.dim(-1)};
  check_operand("decay_gate", "A_log", A_log.value(), heads, accumulation_dtype(a.value().dtype()));
  check_operand("decay_gate", "dt_bias", dt_bias.value(), heads, accumulation_dtype(a.value().dtype()));
  Context& ctx = tape.context();
  const Var out = tape.output(empty_gate(ctx, a.value()), {a, A_log, dt_bias});
  SPANWISE_DISPATCH(ctx, decay_gate_fwd, ctx, a.value(), A_log.value(), dt_bias.value(), out.value());
  tape.record({a, A_log, dt_bias}, {out},
              [&ctx, of = a.saved(), y = out.saved(), a = a.adjoint(), A_log, dt_bias, out = out.adjoint()] {
                const DecayGateGradients grads{empty_like(ctx, of.get()), empty_like(ctx, A_log.value()),
                                               empty_like(ctx, dt_bias.value())};
                SPANWISE_DISPATCH(ctx, decay_gate_bwd, ctx, out.grad(), of.get(), A_log.value(),
                                  dt_bias.value(), y.get(), grads);
                a.add_grad(ctx, grads.da);
                A_log.add_grad(ctx, grads.dA_log);
                dt_bias.add_grad(ctx, grads.ddt_bias);
              });
  return out;
}

Var scaled_sigmoid(Tape& tape, const Var& x, double scale) {
  SPANWISE_CHECK(scale > 0, "scaled_sigmoid: scale {} is not positive", scale);
  Context& ctx = tape.context();
  const Var out = tape.output(empty_gate(ctx, x.value()), {x});
  SPANWISE_DISPATCH(ctx, scaled_sigmoid_fwd, ctx, x.value(), scale, out.value());
  tape.record({x}, {out}, [&ctx, y = out.saved(), x = x.adjoint(), out = out.adjoint(), scale] {
    const Tensor dx = Tensor::empty(ctx, x.shape(), x.dtype());
    SPANWISE_DISPATCH(ctx, scaled_sigmoid_bwd, ctx, out.grad(), y.get(), scale, dx);
    x.add_grad(ctx, dx);
  });
  return out;
}

Mamba2Gates mamba2_gates(Tape& tape, const Var& x, const Var& dt, const Var& A_log, const Var& dt_bias,
                         StepRange range) {
  const DType dtype = x.value().dtype();
  SPANWISE_CHECK(x.shape().num_dims() == 4 && dt.shape() == Shape({x.dim(0), x.dim(1), x.dim(2)}) &&
                     dt.value().dtype() == dtype,
                 "mamba2_gates: x {} must be [B, T, H, P] and dt {} [B, T, H] of its dtype", x.shape().str(),
                 dt.shape().str());
  check_operand("mamba2_gates", "A_log", A_log.value(), {x.dim(2)}, accumulation_dtype(dtype));
  check_operand("mamba2_gates", "dt_bias", dt_bias.value(), {x.dim(2)}, accumulation_dtype(dtype));
  SPANWISE_CHECK(range.min >= 0 && range.min <= range.max, "mamba2_gates: step range [{}, {}] is empty",
                 range.min, range.max);
  Context& ctx = tape.context();
  const auto saved = [x = x.saved(), dt = dt.saved(), A_log, dt_bias, range] {
    return Mamba2GatesTensors{
        .x = x.get(), .dt = dt.get(), .A_log = A_log.value(), .dt_bias = dt_bias.value(), .range = range};
  };
  const auto forward = [&ctx](Mamba2GatesTensors t) {
    t.delta = empty_gate(ctx, t.dt);
    t.v = empty_like(ctx, t.x);
    t.g = empty_gate(ctx, t.dt);
    SPANWISE_DISPATCH(ctx, mamba2_gates_fwd, ctx, t);
    return t;
  };
  const Mamba2GatesTensors f = forward(saved());
  const Mamba2Gates out{tape.output(f.v, {x, dt, dt_bias}), tape.output(f.g, {dt, A_log, dt_bias})};
  tape.recompute_by(out.v, [forward, saved] { return forward(saved()).v; });
  tape.record({x, dt, A_log, dt_bias}, {out.v, out.g},
              [&ctx, saved, delta = f.delta, g = f.g, x = x.adjoint(), dt = dt.adjoint(), A_log, dt_bias,
               out_v = out.v.adjoint(), out_g = out.g.adjoint()] {
                Mamba2GatesTensors t = saved();
                t.delta = delta;
                t.g = g;
                const Mamba2GatesGradients grads{empty_like(ctx, t.x), empty_like(ctx, t.dt),
                                                 empty_like(ctx, t.A_log), empty_like(ctx, t.dt_bias)};
                SPANWISE_DISPATCH(ctx, mamba2_gates_bwd, ctx, out_v.grad_or_zeros(ctx),
                                  out_g.grad_or_zeros(ctx), t, grads);
                x.add_grad(ctx, grads.dx);
                dt.add_grad(ctx, grads.ddt);
                A_log.add_grad(ctx, grads.dA_log);
                dt_bias.add_grad(ctx, grads.ddt_bias);
              });
  return out;
}

Var head_skip(Tape& tape, const Var& y, const Var& x, const Var& D) {
  check_equal_shapes("head_skip", "y", y.value(), "x", x.value());
  SPANWISE_CHECK(x.shape().num_dims() == 4, "head_skip: x {} must be [B, T, H, P]", x.shape().str());
  check_operand("head_skip", "D", D.value(), {x.dim(2)}, accumulation_dtype(x.value().dtype()));
  Context& ctx = tape.context();
  const Var out = tape.output(empty_like(ctx, y.value()), {y, x, D});
  SPANWISE_DISPATCH(ctx, head_skip_fwd, ctx, y.value(), x.value(), D.value(), out.value());
  tape.record({y, x, D}, {out},
              [&ctx, of = x.saved(), y = y.adjoint(), x = x.adjoint(), D, out = out.adjoint()] {
                const Tensor dx = empty_like(ctx, of.get()), dD = empty_like(ctx, D.value());
                SPANWISE_DISPATCH(ctx, head_skip_bwd, ctx, out.grad(), of.get(), D.value(), dx, dD);
                y.add_grad(ctx, out.grad());
                x.add_grad(ctx, dx);
                D.add_grad(ctx, dD);
              });
  return out;
}

}  // namespace spanwise
