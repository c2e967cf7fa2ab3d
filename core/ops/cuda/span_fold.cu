#include "core/ops/span_fold.h"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

namespace {

// Products of states in plain fp32, as exact as the CPU's: few and small (a head is 64 to 256 wide), so a
// block of 32 × 64 outputs is what spreads 16 heads of 128 over the whole GPU. A thread has 4 × 4 of them.
constexpr int kRows = 32, kColumns = 64, kInner = 16, kThreads = 128;
constexpr int kPad = 4;  // keeps rows 16-byte aligned and transposed stores off one bank

struct HeadSizes {
  int rows, columns, inner;
};

/// Loads op(a)[row0 …, k0 …] to tile[k][row] and b[k0 …, column0 …] to tile[k][column]; zeros outside.
template <HeadOperand kOp>
__device__ __forceinline__ void load_tiles(const float* __restrict__ a, const float* __restrict__ b,
                                           const HeadSizes& n, int row0, int column0, int k0,
                                           float (&a_tile)[kInner][kRows + kPad],
                                           float (&b_tile)[kInner][kColumns + kPad]) {
  for (int i = threadIdx.x; i < kInner * kRows; i += kThreads) {
    // Neighbouring threads read neighbouring elements of a, whichever way it lies.
    const int k = kOp == HeadOperand::kPlain ? i % kInner : i / kRows;
    const int row = kOp == HeadOperand::kPlain ? i / kInner : i % kRows;
    const bool inside = row0 + row < n.rows && k0 + k < n.inner;
    const int64_t at = kOp == HeadOperand::kPlain ? int64_t(row0 + row) * n.inner + k0 + k
                                                  : int64_t(k0 + k) * n.rows + row0 + row;
    a_tile[k][row] = inside ? a[at] : 0.f;
  }
  for (int i = threadIdx.x; i < kInner * kColumns; i += kThreads) {
    const int k = i / kColumns, column = i % kColumns;
    const bool inside = column0 + column < n.columns && k0 + k < n.inner;
    b_tile[k][column] = inside ? b[int64_t(k0 + k) * n.columns + column0 + column] : 0.f;
  }
}

template <HeadOperand kOp, HeadOutput kOutput>
__global__ void __launch_bounds__(kThreads)
    multiply_heads_kernel(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ out,
                          HeadSizes n) {
  __shared__ __align__(16) float a_tile[2][kInner][kRows + kPad], b_tile[2][kInner][kColumns + kPad];
  const int64_t head = blockIdx.z;
  a += head * n.rows * n.inner;
  b += head * n.inner * n.columns;
  out += head * n.rows * n.columns;
  const int row0 = blockIdx.y * kRows, column0 = blockIdx.x * kColumns;
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  float sum[4][4] = {};
  load_tiles<kOp>(a, b, n, row0, column0, 0, a_tile[0], b_tile[0]);
  __syncthreads();
  for (int k0 = 0, stage = 0; k0 < n.inner; k0 += kInner, stage ^= 1) {
    if (k0 + kInner < n.inner)
      load_tiles<kOp>(a, b, n, row0, column0, k0 + kInner, a_tile[stage ^ 1], b_tile[stage ^ 1]);
#pragma unroll
    for (int k = 0; k < kInner; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(&a_tile[stage][k][row]);
      const float4 y = *reinterpret_cast<const float4*>(&b_tile[stage][k][column]);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(xs[i], ys[j], sum[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (row0 + row + i >= n.rows || column0 + column + j >= n.columns) continue;
      float& to = out[int64_t(row0 + row + i) * n.columns + column0 + column + j];
      to = kOutput == HeadOutput::kAccumulate ? to + sum[i][j] : sum[i][j];
    }
  }
}

__global__ void __launch_bounds__(256)
    decay_heads_kernel(const float* __restrict__ log_decay, const float* __restrict__ state,
                       const float* __restrict__ added, float* __restrict__ out, int64_t elems) {
  const int64_t head = blockIdx.y, base = head * elems;
  const float decay = log_decay ? expf(log_decay[head]) : 1.f;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < elems;
       i += int64_t(gridDim.x) * blockDim.x)
    out[base + i] = fmaf(decay, state[base + i], added[base + i]);
}

void check_single(const Tensor& t) {
  SPANWISE_CHECK(t.dtype() == DType::kF32, "states of {} cannot be folded on CUDA (F32 can)",
                 name_of(t.dtype()));
}

}  // namespace

void multiply_heads(const Context& ctx, const Tensor& a, HeadOperand op, const Tensor& b, const Tensor& out,
                    HeadOutput output) {
  check_single(out);
  if (out.numel() == 0) return;
  const HeadSizes n{int(out.dim(1)), int(out.dim(2)), int(b.dim(1))};
  const dim3 grid(unsigned(ceil_div(n.columns, kColumns)), unsigned(ceil_div(n.rows, kRows)),
                  unsigned(out.dim(0)));
  const auto launch = [&](auto* kernel) {
    kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(a.data<float>(), b.data<float>(), out.data<float>(), n);
  };
  if (op == HeadOperand::kPlain) {
    launch(output == HeadOutput::kWrite
               ? multiply_heads_kernel<HeadOperand::kPlain, HeadOutput::kWrite>
               : multiply_heads_kernel<HeadOperand::kPlain, HeadOutput::kAccumulate>);
  } else {
    launch(output == HeadOutput::kWrite
               ? multiply_heads_kernel<HeadOperand::kTransposed, HeadOutput::kWrite>
               : multiply_heads_kernel<HeadOperand::kTransposed, HeadOutput::kAccumulate>);
  }
  check_launch("multiply_heads");
}

void decay_heads(const Context& ctx, const Tensor& log_decay, const Tensor& state, const Tensor& added,
                 const Tensor& out) {
  check_single(out);
  if (out.numel() == 0) return;
  const int64_t elems = out.dim(1) * out.dim(2);
  const dim3 grid(unsigned(std::min<int64_t>(ceil_div(elems, 256), 64)), unsigned(out.dim(0)));
  decay_heads_kernel<<<grid, 256, 0, stream_of(ctx)>>>(pointer<float>(log_decay), state.data<float>(),
                                                       added.data<float>(), out.data<float>(), elems);
  check_launch("decay_heads");
}

}  // namespace spanwise::cuda
