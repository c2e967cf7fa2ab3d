#include "core/ops/gates.h"

#include "core/ops/cuda/common/activations.cuh"
#include "core/ops/cuda/common/elementwise.cuh"
#include "core/ops/cuda/common/head_sums.cuh"

namespace spanwise::cuda {

namespace {

template <class T>
struct DecayGate {
  RowView<const T> a;
  const float *A_log, *dt_bias;
  float* g;
  int heads;

  __device__ void operator()(int64_t token, int head, float (&)[kMaxHeadSums]) const {
    const float x = to_float(a.at(token)[head]) + dt_bias[head];
    g[token * heads + head] = -expf(A_log[head]) * softplus(x);
  }
};

template <class T>
struct DecayGateBackward {
  RowView<const T> a;
  RowView<const float> dg;
  const float *A_log, *dt_bias, *g;
  T* da;
  int heads;

  __device__ void operator()(int64_t token, int head, float (&sums)[kMaxHeadSums]) const {
    const float x = to_float(a.at(token)[head]) + dt_bias[head], d = dg.at(token)[head];
    const float dx = -expf(A_log[head]) * sigmoid(x) * d;
    da[token * heads + head] = from_float<T>(dx);
    sums[0] += g[token * heads + head] * d;
    sums[1] += dx;
  }
};

struct ScaledSigmoid {
  float scale;
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = scale * sigmoid(in[0]); }
};

struct ScaledSigmoidBackward {
  float inverse_scale;
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {  // dy, y → dx
    out[0] = in[0] * in[1] * (1.0f - in[1] * inverse_scale);
  }
};

}  // namespace

void decay_gate_fwd(const Context& ctx, const Tensor& a, const Tensor& A_log, const Tensor& dt_bias,
                    const Tensor& g) {
  const int64_t heads = a.dim(-1);
  dispatch_cuda(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const DecayGate<T> op{rows_of<const T>(a, heads), pointer<float>(A_log), pointer<float>(dt_bias),
                          pointer<float>(g), int(heads)};
    for_each_head(ctx, "decay_gate", a.numel() / heads, heads, op);
  });
}

void decay_gate_bwd(Context& ctx, const Tensor& dg, const Tensor& a, const Tensor& A_log,
                    const Tensor& dt_bias, const Tensor& g, const DecayGateGradients& grads) {
  const int64_t heads = a.dim(-1);
  dispatch_cuda(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const DecayGateBackward<T> op{rows_of<const T>(a, heads),
                                  rows_of<const float>(dg, heads),
                                  pointer<float>(A_log),
                                  pointer<float>(dt_bias),
                                  pointer<float>(g),
                                  pointer<T>(grads.da),
                                  int(heads)};
    sum_over_tokens<2>(ctx, "decay_gate backward", a.numel() / heads, heads, op,
                       {&grads.dA_log, &grads.ddt_bias});
  });
}

void scaled_sigmoid_fwd(const Context& ctx, const Tensor& x, double scale, const Tensor& y) {
  dispatch_cuda(x.dtype(), [&](auto zero) {
    elementwise<decltype(zero), float, 1, 1>(ctx, "scaled_sigmoid", {&x}, {&y}, ScaledSigmoid{float(scale)});
  });
}

void scaled_sigmoid_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, double scale,
                        const Tensor& dx) {
  dispatch_cuda(dx.dtype(), [&](auto zero) {
    elementwise<float, decltype(zero), 2, 1>(ctx, "scaled_sigmoid backward", {&dy, &y}, {&dx},
                                             ScaledSigmoidBackward{float(1.0 / scale)});
  });
}

}  // namespace spanwise::cuda
