#include "core/ops/cuda/common/activations.cuh"
#include "core/ops/cuda/common/head_sums.cuh"
#include "core/ops/cuda/common/row_kernel.cuh"
#include "core/ops/gates.h"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;

// out = scale ∘ x + added, a number a row: scale[row], or scale[row mod heads] where heads > 0.
template <class T>
struct ScaleRows {
  RowView<const T> x, added;  // added.data may be nullptr
  const float* scale;
  T* out;
  int64_t rows;
  int32_t width, heads;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) scale_rows_kernel(const ScaleRows<T> a) {
  using Values = Pack<T, kWidth>;
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= a.rows) return;
  const float scale = a.scale[a.heads > 0 ? row % a.heads : row];
  for (int column = threadIdx.x * kWidth; column < a.width; column += blockDim.x * kWidth) {
    const Values x = Values::load(a.x.at(row) + column);
    const Values added = a.added.data ? Values::load(a.added.at(row) + column) : Values::zero();
    float out[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out[i] = fmaf(scale, x.get(i), added.get(i));
    Values::from(out).store(a.out + row * a.width + column);
  }
}

template <class T>
void scale_rows(const Context& ctx, const Tensor& x, const Tensor& added, const Tensor& scale, int heads,
                const Tensor& out) {
  if (x.numel() == 0) return;
  const int64_t width = x.dim(-1);
  const ScaleRows<T> a{rows_of<const T>(x, width),
                       rows_of<const T>(added, width),
                       pointer<float>(scale),
                       pointer<T>(out),
                       x.numel() / width,
                       int32_t(width),
                       heads};
  const auto launch = [&](auto pack) {
    constexpr int kWidth = decltype(pack)::value;
    unsigned across = 1;
    while (across < kThreads && int64_t(across) * kWidth < width) across *= 2;
    const dim3 threads(across, kThreads / across);
    scale_rows_kernel<T, kWidth><<<unsigned(ceil_div(a.rows, threads.y)), threads, 0, stream_of(ctx)>>>(a);
  };
  rows_are_aligned({&x, &added, &out}, width, kVector<T>) ? launch(std::integral_constant<int, kVector<T>>{})
                                                          : launch(std::integral_constant<int, 1>{});
  check_launch("scale_rows");
}

// dx = scale ∘ dy and the dot ⟨dy, x⟩ of every row.
struct DotRows {
  static constexpr int kInputs = 2, kOutputs = 1;  // dy, x → dx
  static constexpr bool kWeightGradient = false;
  const float* scales;
  int32_t heads;  // as in ScaleRows
  float* dots;

  __device__ float term(const float (&in)[2], float) const { return in[0] * in[1]; }
  __device__ float scale(int64_t row, float sum, bool leader) const {
    if (leader) dots[row] = sum;
    return scales[heads > 0 ? row % heads : row];
  }
  __device__ void apply(const float (&in)[2], float, float scale, float (&out)[1], float&) const {
    out[0] = scale * in[0];
  }
};

template <class T>
void dot_rows(const Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& scale, int heads,
              const Tensor& dx, const Tensor& dots) {
  const int64_t width = x.dim(-1);
  run_rows<DotRows, T>(ctx, "dot_rows", rows_are_aligned({&dy, &x, &dx}, width, kVector<T>),
                       {{rows_of<const T>(dy, width), rows_of<const T>(x, width)},
                        {pointer<T>(dx)},
                        nullptr,
                        x.numel() / width,
                        int32_t(width)},
                       {pointer<float>(scale), heads, pointer<float>(dots)});
}

template <class T>
struct Mamba2Step {
  RowView<const T> dt;
  const float *A_log, *dt_bias;
  float low, high;
  float *delta, *g;
  int heads;

  __device__ void operator()(int64_t token, int head, float (&)[kMaxHeadSums]) const {
    const float step = fminf(fmaxf(softplus(to_float(dt.at(token)[head]) + dt_bias[head]), low), high);
    delta[token * heads + head] = step;
    g[token * heads + head] = -expf(A_log[head]) * step;
  }
};

template <class T>
struct Mamba2StepBackward {
  RowView<const T> dt;
  RowView<const float> dg;
  const float *A_log, *dt_bias, *delta, *g, *dots;
  float low, high;
  T* ddt;
  int heads;

  __device__ void operator()(int64_t token, int head, float (&sums)[kMaxHeadSums]) const {
    const int64_t at = token * heads + head;
    const float d = dg.at(token)[head], step = delta[at];
    const float slope =
        step > low && step < high ? sigmoid(to_float(dt.at(token)[head]) + dt_bias[head]) : 0.0f;
    const float dx = slope * (dots[at] - expf(A_log[head]) * d);
    ddt[at] = from_float<T>(dx);
    sums[0] += g[at] * d;
    sums[1] += dx;
  }
};

struct SumHeads {
  const float* values;
  int heads;
  __device__ void operator()(int64_t token, int head, float (&sums)[kMaxHeadSums]) const {
    sums[0] += values[token * heads + head];
  }
};

}  // namespace

void mamba2_gates_fwd(const Context& ctx, const Mamba2GatesTensors& t) {
  const int64_t heads = t.x.dim(2);
  dispatch_cuda(t.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Mamba2Step<T> step{rows_of<const T>(t.dt, heads),
                             pointer<float>(t.A_log),
                             pointer<float>(t.dt_bias),
                             float(t.range.min),
                             float(t.range.max),
                             pointer<float>(t.delta),
                             pointer<float>(t.g),
                             int(heads)};
    for_each_head(ctx, "mamba2_gates", t.dt.numel() / heads, heads, step);
    scale_rows<T>(ctx, t.x, Tensor(), t.delta, 0, t.v);
  });
}

void mamba2_gates_bwd(Context& ctx, const Tensor& dv, const Tensor& dg, const Mamba2GatesTensors& t,
                      const Mamba2GatesGradients& grads) {
  const int64_t heads = t.x.dim(2);
  const Tensor dots = Tensor::empty(ctx, t.dt.shape(), DType::kF32);
  dispatch_cuda(t.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    dot_rows<T>(ctx, dv, t.x, t.delta, 0, grads.dx, dots);
    const Mamba2StepBackward<T> step{rows_of<const T>(t.dt, heads),
                                     rows_of<const float>(dg, heads),
                                     pointer<float>(t.A_log),
                                     pointer<float>(t.dt_bias),
                                     pointer<float>(t.delta),
                                     pointer<float>(t.g),
                                     pointer<float>(dots),
                                     float(t.range.min),
                                     float(t.range.max),
                                     pointer<T>(grads.ddt),
                                     int(heads)};
    sum_over_tokens<2>(ctx, "mamba2_gates backward", t.dt.numel() / heads, heads, step,
                       {&grads.dA_log, &grads.ddt_bias});
  });
}

void head_skip_fwd(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& D, const Tensor& out) {
  dispatch_cuda(x.dtype(), [&](auto zero) { scale_rows<decltype(zero)>(ctx, x, y, D, int(x.dim(2)), out); });
}

void head_skip_bwd(Context& ctx, const Tensor& dout, const Tensor& x, const Tensor& D, const Tensor& dx,
                   const Tensor& dD) {
  const int64_t heads = x.dim(2), tokens = x.numel() / (heads * x.dim(3));
  const Tensor dots = Tensor::empty(ctx, {tokens, heads}, DType::kF32);
  dispatch_cuda(x.dtype(),
                [&](auto zero) { dot_rows<decltype(zero)>(ctx, dout, x, D, int(heads), dx, dots); });
  sum_over_tokens<1>(ctx, "head_skip backward", tokens, heads, SumHeads{dots.data<float>(), int(heads)},
                     {&dD});
}

}  // namespace spanwise::cuda
