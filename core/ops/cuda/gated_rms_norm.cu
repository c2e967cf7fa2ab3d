#include "core/ops/gated_rms_norm.h"

#include "core/ops/cuda/common/activations.cuh"
#include "core/ops/cuda/common/row_kernel.cuh"

namespace spanwise::cuda {

namespace {

/// φ and φ' of a gate; which φ is the same for all threads.
struct Gate {
  bool silu;

  __device__ float value(float x) const {
    const float s = sigmoid(x);
    return silu ? x * s : s;
  }
  __device__ SiluValue both(float x) const {
    const float s = sigmoid(x), f = silu ? x * s : s;
    return {f, fmaf(f, 1.0f - s, silu ? s : 0.0f)};
  }
};

template <GateOrder kOrder>
struct GatedRmsNorm {
  static constexpr int kInputs = 2, kOutputs = 1;  // x, gate → y
  static constexpr bool kWeightGradient = false;
  Gate gate;
  float inverse_width, eps;
  float* rstd;

  __device__ float term(const float (&in)[2], float) const {
    const float u = kOrder == GateOrder::kGateThenNorm ? in[0] * gate.value(in[1]) : in[0];
    return u * u;
  }
  __device__ float scale(int64_t row, float sum, bool leader) const {
    const float value = rsqrtf(sum * inverse_width + eps);
    if (leader) rstd[row] = value;
    return value;
  }
  __device__ void apply(const float (&in)[2], float w, float scale, float (&out)[1], float&) const {
    out[0] = in[0] * gate.value(in[1]) * (scale * w);
  }
};

template <GateOrder kOrder>
struct GatedRmsNormBackward {
  struct Scale {
    float rstd, mean;
  };
  static constexpr int kInputs = 3, kOutputs = 2;  // dy, x, gate → dx, dgate
  static constexpr bool kWeightGradient = true;
  Gate gate;
  float inverse_width;
  const float* rstd;

  __device__ float term(const float (&in)[3], float w) const {
    return in[0] * w * (in[1] * gate.value(in[2]));
  }
  __device__ Scale scale(int64_t row, float sum, bool) const {
    const float r = rstd[row];
    return {r, sum * r * r * inverse_width};
  }
  __device__ void apply(const float (&in)[3], float w, Scale s, float (&out)[2], float& dw) const {
    const SiluValue f = gate.both(in[2]);
    const float x = in[1], dnormed = in[0] * w;
    dw += in[0] * (x * f.value) * s.rstd;
    if constexpr (kOrder == GateOrder::kNormThenGate) {
      out[0] = s.rstd * (dnormed * f.value - x * s.mean);
      out[1] = s.rstd * dnormed * x * f.derivative;
    } else {
      const float du = s.rstd * (dnormed - x * f.value * s.mean);
      out[0] = du * f.value;
      out[1] = du * x * f.derivative;
    }
  }
};

/// fn(T{}, the order as a compile-time constant).
template <class F>
void dispatch(const GatedNormInputs& in, F&& fn) {
  dispatch_cuda(in.x.dtype(), [&](auto zero) {
    if (in.options.order == GateOrder::kNormThenGate) {
      fn(zero, std::integral_constant<GateOrder, GateOrder::kNormThenGate>{});
    } else {
      fn(zero, std::integral_constant<GateOrder, GateOrder::kGateThenNorm>{});
    }
  });
}

Gate gate_of(const GatedNormInputs& in) {
  return {in.options.gate_activation == Activation::kSiLU};
}

}  // namespace

void gated_rms_norm_fwd(const Context& ctx, const GatedNormInputs& in, double eps, const Tensor& y,
                        const Tensor& rstd) {
  const int64_t width = in.x.dim(-1);
  const DimPart& part = in.options.part;
  dispatch(in, [&](auto zero, auto order) {
    using T = decltype(zero);
    run_rows<GatedRmsNorm<decltype(order)::value>, T>(
        ctx, "gated_rms_norm", rows_are_aligned({&in.x, &in.gate, &y}, width, kVector<T>),
        {{rows_of<const T>(in.x, width), rows_of<const T>(in.gate, width)},
         {pointer<T>(y)},
         pointer<float>(in.weight),
         rstd.numel(),
         int32_t(width),
         weight_groups(in.weight, width)},
        {gate_of(in), inverse_width(in.x, part), float(eps), pointer<float>(rstd)}, part, rstd);
  });
}

void gated_rms_norm_bwd(Context& ctx, const Tensor& dy, const GatedNormInputs& in, const Tensor& rstd,
                        const GatedNormGradients& grads) {
  const int64_t width = in.x.dim(-1);
  const DimPart& part = in.options.part;
  const Tensor dots = part.divided() ? Tensor::empty(ctx, rstd.shape(), DType::kF32) : Tensor();
  dispatch(in, [&](auto zero, auto order) {
    using T = decltype(zero);
    run_rows_backward<GatedRmsNormBackward<decltype(order)::value>, T>(
        ctx, "gated_rms_norm backward",
        rows_are_aligned({&dy, &in.x, &in.gate, &grads.dx, &grads.dgate}, width, kVector<T>),
        {{rows_of<const T>(dy, width), rows_of<const T>(in.x, width), rows_of<const T>(in.gate, width)},
         {pointer<T>(grads.dx), pointer<T>(grads.dgate)},
         pointer<float>(in.weight),
         rstd.numel(),
         int32_t(width),
         weight_groups(in.weight, width)},
        {gate_of(in), inverse_width(in.x, part), pointer<float>(rstd)}, part, dots, grads.dweight);
  });
}

}  // namespace spanwise::cuda
