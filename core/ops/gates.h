#pragma once
// The per-token, per-head scalars of linear-attention mixers, H heads. a, dt and x may be column blocks of a
// projection. x, y, v, out and the projections a, dt are of one dtype; the gates g, β and Δ, the parameters
// and their gradients of its accumulation_dtype. Every backward writes (=) its gradients, a projection's in
// its own dtype; those of A_log, dt_bias and D are summed over tokens in one fixed order.

#include <limits>

#include "core/autograd.h"

namespace spanwise {

/// Log decay (Gated DeltaNet, arXiv 2412.06464): g = −e^{A_log} softplus(a + dt_bias) ≤ 0.
///   da = −e^{A_log} σ(a + dt_bias) dg;   ddt_bias = Σ da;   dA_log = Σ g dg
///   a, g [..., H]   A_log, dt_bias [H]. Saves a and g.
Var decay_gate(Tape& tape, const Var& a, const Var& A_log, const Var& dt_bias);

/// y = scale · σ(x), any shape: the write strength β; scale 2 lets a delta rule's transition have negative
/// eigenvalues (arXiv 2411.12537). dx = dy y (1 − y / scale). Saves y.
Var scaled_sigmoid(Tape& tape, const Var& x, double scale);

/// Where Mamba2's step Δ is held.
struct StepRange {
  double min = 0, max = std::numeric_limits<double>::infinity();
};
struct Mamba2Gates {
  Var v;  ///< [B, T, H, P]
  Var g;  ///< [B, T, H], ≤ 0
};
/// Discretisation (Mamba2, arXiv 2405.21060): Δ = clamp(softplus(dt + dt_bias), range), v = Δ x,
/// g = −e^{A_log} Δ.
///   dx = Δ dv;   dΔ = ⟨dv, x⟩ − e^{A_log} dg;   ddt = dΔ σ(dt + dt_bias), zero where Δ was clamped;
///   ddt_bias = Σ ddt;   dA_log = Σ g dg
///   x [B, T, H, P]   dt [B, T, H]   A_log, dt_bias [H]. Saves x, dt, Δ and g.
Mamba2Gates mamba2_gates(Tape& tape, const Var& x, const Var& dt, const Var& A_log, const Var& dt_bias,
                         StepRange range = {});

/// Mamba2's skip: out = y + D_h x, with dy = dout, dx = D_h dout, dD_h = Σ ⟨dout, x⟩.
///   y, x, out [B, T, H, P]   D [H]. Saves x.
Var head_skip(Tape& tape, const Var& y, const Var& x, const Var& D);

struct DecayGateGradients {
  Tensor da, dA_log, ddt_bias;
};
struct Mamba2GatesTensors {
  Tensor x, dt, A_log, dt_bias;
  StepRange range;
  Tensor delta, v, g;  ///< written by forward; backward reads delta and g
};
struct Mamba2GatesGradients {
  Tensor dx, ddt, dA_log, ddt_bias;
};

namespace cpu {
void decay_gate_fwd(const Context& ctx, const Tensor& a, const Tensor& A_log, const Tensor& dt_bias,
                    const Tensor& g);
void decay_gate_bwd(const Context& ctx, const Tensor& dg, const Tensor& a, const Tensor& A_log,
                    const Tensor& dt_bias, const Tensor& g, const DecayGateGradients& grads);

void scaled_sigmoid_fwd(const Context& ctx, const Tensor& x, double scale, const Tensor& y);
void scaled_sigmoid_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, double scale,
                        const Tensor& dx);

void mamba2_gates_fwd(const Context& ctx, const Mamba2GatesTensors& t);
void mamba2_gates_bwd(const Context& ctx, const Tensor& dv, const Tensor& dg, const Mamba2GatesTensors& t,
                      const Mamba2GatesGradients& grads);

void head_skip_fwd(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& D, const Tensor& out);
void head_skip_bwd(const Context& ctx, const Tensor& dout, const Tensor& x, const Tensor& D, const Tensor& dx,
                   const Tensor& dD);
}  // namespace cpu
namespace cuda {
void decay_gate_fwd(const Context& ctx, const Tensor& a, const Tensor& A_log, const Tensor& dt_bias,
                    const Tensor& g);
void decay_gate_bwd(Context& ctx, const Tensor& dg, const Tensor& a, const Tensor& A_log,
                    const Tensor& dt_bias, const Tensor& g, const DecayGateGradients& grads);

void scaled_sigmoid_fwd(const Context& ctx, const Tensor& x, double scale, const Tensor& y);
void scaled_sigmoid_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, double scale,
                        const Tensor& dx);

void mamba2_gates_fwd(const Context& ctx, const Mamba2GatesTensors& t);
void mamba2_gates_bwd(Context& ctx, const Tensor& dv, const Tensor& dg, const Mamba2GatesTensors& t,
                      const Mamba2GatesGradients& grads);

void head_skip_fwd(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& D, const Tensor& out);
void head_skip_bwd(Context& ctx, const Tensor& dout, const Tensor& x, const Tensor& D, const Tensor& dx,
                   const Tensor& dD);
}  // namespace cuda

}  // namespace spanwise
