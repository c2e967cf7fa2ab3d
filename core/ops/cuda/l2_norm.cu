#include "core/ops/l2_norm.h"

#include "core/ops/cuda/common/row_kernel.cuh"

namespace spanwise::cuda {

namespace {

struct L2Norm {
  static constexpr int kInputs = 1, kOutputs = 1;
  static constexpr bool kWeightGradient = false;
  float eps;
  float* rstd;

  __device__ float term(const float (&in)[1], float) const { return in[0] * in[0]; }
  __device__ float scale(int64_t row, float sum, bool leader) const {
    const float value = rsqrtf(sum + eps);
    if (leader) rstd[row] = value;
    return value;
  }
  __device__ void apply(const float (&in)[1], float, float scale, float (&out)[1], float&) const {
    out[0] = in[0] * scale;
  }
};

struct L2NormBackward {
  struct Scale {
    float rstd, dot;
  };
  static constexpr int kInputs = 2, kOutputs = 1;  // dy, y → dx
  static constexpr bool kWeightGradient = false;
  const float* rstd;

  __device__ float term(const float (&in)[2], float) const { return in[0] * in[1]; }
  __device__ Scale scale(int64_t row, float sum, bool) const { return {rstd[row], sum}; }
  __device__ void apply(const float (&in)[2], float, Scale s, float (&out)[1], float&) const {
    out[0] = s.rstd * (in[0] - in[1] * s.dot);
  }
};

}  // namespace

void l2_norm_fwd(const Context& ctx, const Tensor& x, double eps, const Tensor& y, const Tensor& rstd) {
  const int64_t width = x.dim(-1);
  dispatch_cuda(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run_rows<L2Norm, T>(
        ctx, "l2_norm", rows_are_aligned({&x, &y}, width, kVector<T>),
        {{rows_of<const T>(x, width)}, {pointer<T>(y)}, nullptr, rstd.numel(), int32_t(width)},
        {float(eps), pointer<float>(rstd)});
  });
}

void l2_norm_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, const Tensor& rstd,
                 const Tensor& dx) {
  const int64_t width = y.dim(-1);
  dispatch_cuda(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    run_rows<L2NormBackward, T>(ctx, "l2_norm backward", rows_are_aligned({&dy, &y, &dx}, width, kVector<T>),
                                {{rows_of<const T>(dy, width), rows_of<const T>(y, width)},
                                 {pointer<T>(dx)},
                                 nullptr,
                                 rstd.numel(),
                                 int32_t(width)},
                                {pointer<float>(rstd)});
  });
}

}  // namespace spanwise::cuda
