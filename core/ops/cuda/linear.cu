#include "core/ops/linear.h"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/linear_calls.h"
#include "core/ops/cuda/common/vector.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;

// sums[block of rows, c] = Σ over its rows of dy[r, c]; one thread a column, neighbours read neighbours.
template <class T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const T* __restrict__ dy, int64_t rows, int64_t columns, int64_t stride,
                       float* __restrict__ sums) {
  const int64_t c = int64_t(blockIdx.y) * kThreads + threadIdx.x;
  if (c >= columns) return;
  const int64_t begin = int64_t(blockIdx.x) * kBiasRowsPerBlock, end = min(begin + kBiasRowsPerBlock, rows);
  float sum = 0;
#pragma unroll 8
  for (int64_t r = begin; r < end; ++r) sum += to_float(dy[r * stride + c]);
  sums[int64_t(blockIdx.x) * columns + c] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_partial_sums_kernel(const float* __restrict__ sums, int64_t partials, int64_t columns,
                            float* __restrict__ total) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= columns) return;
  float sum = 0;
  for (int64_t p = 0; p < partials; ++p) sum += sums[p * columns + c];
  total[c] = sum;
}

__global__ void __launch_bounds__(kThreads)
    round_kernel(const float* __restrict__ from, int64_t n, bf16* __restrict__ to) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) to[i] = from_float<bf16>(from[i]);
}

// The epilogue adds a bias of the output's dtype.
Tensor as_dtype(Context& ctx, const Tensor& bias, DType dtype) {
  if (!bias.defined() || bias.dtype() == dtype) return bias;
  const Tensor rounded = Tensor::empty(ctx, bias.shape(), dtype);
  const int64_t n = bias.numel();
  round_kernel<<<unsigned(ceil_div(n, kThreads)), kThreads, 0, stream_of(ctx)>>>(pointer<float>(bias), n,
                                                                                 pointer<bf16>(rounded));
  check_launch("linear bias");
  return rounded;
}

}  // namespace

void linear_fwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  gemm(ctx, linear_fwd_call(x, weight, as_dtype(ctx, bias, y.dtype()), y));
}

void linear_bwd_x(Context& ctx, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  gemm(ctx, linear_bwd_x_call(dy, weight, dx, accumulate));
}

void linear_bwd_weight(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& dweight,
                       bool accumulate) {
  gemm(ctx, linear_bwd_weight_call(dy, x, dweight, accumulate));
}

void linear_bwd_bias(Context& ctx, const Tensor& dy, const Tensor& dbias) {
  const int64_t columns = dbias.numel(), rows = dy.numel() / columns;
  const int64_t partials = ceil_div(rows, kBiasRowsPerBlock);
  const Tensor sums = Tensor::empty(ctx, {partials, columns}, DType::kF32);
  const unsigned blocks = unsigned(ceil_div(columns, kThreads));
  dispatch_cuda(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    column_sums_kernel<T><<<dim3(unsigned(partials), blocks), kThreads, 0, stream_of(ctx)>>>(
        pointer<T>(dy), rows, columns, dy.row_stride(columns), pointer<float>(sums));
  });
  add_partial_sums_kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(pointer<float>(sums), partials, columns,
                                                                   pointer<float>(dbias));
  check_launch("linear_bwd_bias");
}

}  // namespace spanwise::cuda
