#include "core/ops/rms_norm.h"

#include "core/ops/cuda/common/row_kernel.cuh"

namespace spanwise::cuda {

namespace {

struct Scale {
  float rstd, mean;
};

struct RmsNorm {
  static constexpr int kInputs = 1, kOutputs = 1;
  static constexpr bool kWeightGradient = false;
  float inverse_width, eps;
  float* rstd;

  __device__ float term(const float (&in)[1], float) const { return in[0] * in[0]; }
  __device__ float scale(int64_t row, float sum, bool leader) const {
    const float value = rsqrtf(sum * inverse_width + eps);
    if (leader) rstd[row] = value;
    return value;
  }
  __device__ void apply(const float (&in)[1], float w, float scale, float (&out)[1], float&) const {
    out[0] = in[0] * scale * w;
  }
};

// What is normalised is the sum as it is stored, which is what backward reads.
template <class T>
struct AddRmsNorm {
  static constexpr int kInputs = 2, kOutputs = 2;  // x, residual → y, sum
  static constexpr bool kWeightGradient = false;
  RmsNorm norm;

  static __device__ float sum(const float (&in)[2]) { return to_float(from_float<T>(in[0] + in[1])); }
  __device__ float term(const float (&in)[2], float w) const { return norm.term({sum(in)}, w); }
  __device__ float scale(int64_t row, float sum, bool leader) const { return norm.scale(row, sum, leader); }
  __device__ void apply(const float (&in)[2], float w, float scale, float (&out)[2], float&) const {
    out[1] = sum(in);
    out[0] = out[1] * scale * w;
  }
};

// dx = rstd (w∘dy − x rstd² Σ w∘dy∘x / width), and dsum where kDsum.
template <bool kDsum>
struct RmsNormBackward {
  static constexpr int kInputs = kDsum ? 3 : 2, kOutputs = 1;  // dy, x, dsum → dx
  static constexpr bool kWeightGradient = true;
  float inverse_width;
  const float* rstd;

  __device__ float term(const float (&in)[kInputs], float w) const { return in[0] * w * in[1]; }
  __device__ Scale scale(int64_t row, float sum, bool) const {
    const float r = rstd[row];
    return {r, sum * r * r * inverse_width};
  }
  __device__ void apply(const float (&in)[kInputs], float w, Scale s, float (&out)[1], float& dw) const {
    out[0] = s.rstd * (in[0] * w - in[1] * s.mean);
    if constexpr (kDsum) out[0] += in[2];
    dw += in[0] * in[1] * s.rstd;
  }
};

}  // namespace

void rms_norm_fwd(const Context& ctx, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, const RmsNormForward& out, const DimPart& part) {
  const int64_t width = x.dim(-1);
  const bool aligned = rows_are_aligned({&x, &residual, &out.y}, width, 16 / int(size_of(x.dtype())));
  dispatch_cuda(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const RmsNorm norm{inverse_width(x, part), float(eps), pointer<float>(out.rstd)};
    const int32_t columns = int32_t(width), groups = weight_groups(weight, width);
    if (residual.defined()) {
      const RowOperands<T, 2, 2> operands{{rows_of<const T>(x, width), rows_of<const T>(residual, width)},
                                          {pointer<T>(out.y), pointer<T>(out.sum)},
                                          pointer<float>(weight),
                                          x.numel() / width,
                                          columns,
                                          groups};
      run_rows<AddRmsNorm<T>, T>(ctx, "rms_norm", aligned, operands, {norm}, part, out.rstd);
    } else {
      const RowOperands<T, 1, 1> operands{{rows_of<const T>(x, width)},
                                          {pointer<T>(out.y)},
                                          pointer<float>(weight),
                                          x.numel() / width,
                                          columns,
                                          groups};
      run_rows<RmsNorm, T>(ctx, "rms_norm", aligned, operands, norm, part, out.rstd);
    }
  });
}

void rms_norm_bwd(Context& ctx, const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                  const Tensor& rstd, const spanwise::RmsNormBackward& out, const DimPart& part) {
  const int64_t width = x.dim(-1);
  const bool aligned = rows_are_aligned({&dy, &dsum, &x, &out.dx}, width, 16 / int(size_of(x.dtype())));
  const Tensor dots = part.divided() ? Tensor::empty(ctx, rstd.shape(), DType::kF32) : Tensor();
  dispatch_cuda(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto run = [&](auto with_dsum) {
      using Op = RmsNormBackward<decltype(with_dsum)::value>;
      RowOperands<T, Op::kInputs, 1> operands{{rows_of<const T>(dy, width), rows_of<const T>(x, width)},
                                              {pointer<T>(out.dx)},
                                              pointer<float>(weight),
                                              x.numel() / width,
                                              int32_t(width),
                                              weight_groups(weight, width)};
      if constexpr (Op::kInputs == 3) operands.in[2] = rows_of<const T>(dsum, width);
      run_rows_backward<Op, T>(ctx, "rms_norm backward", aligned, operands,
                               {inverse_width(x, part), pointer<float>(rstd)}, part, dots, out.dweight);
    };
    dsum.defined() ? run(std::true_type{}) : run(std::false_type{});
  });
}

}  // namespace spanwise::cuda
