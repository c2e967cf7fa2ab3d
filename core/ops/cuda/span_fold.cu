#include "core/ops/span_fold.h"

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

namespace {

// A block does a kTile × kTile tile of one head's product, a thread 4 × 4 of it.
constexpr int kTile = 64, kStep = 16, kThreads = 256;

template <bool kTransposed, bool kAccumulate>
__global__ void __launch_bounds__(kThreads)
    multiply_heads_kernel(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ out,
                          int rows, int columns, int inner) {
  __shared__ float a_tile[kStep][kTile + 4], b_tile[kStep][kTile + 4];
  a += int64_t(blockIdx.z) * rows * inner;
  b += int64_t(blockIdx.z) * inner * columns;
  out += int64_t(blockIdx.z) * rows * columns;
  const int first_row = blockIdx.y * kTile, first_column = blockIdx.x * kTile;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  float sum[4][4] = {};
  for (int k0 = 0; k0 < inner; k0 += kStep) {
    for (int i = threadIdx.x; i < kTile * kStep; i += kThreads) {
      // Consecutive threads read consecutive elements of a either way.
      const int r = kTransposed ? i % kTile : i / kStep, k = kTransposed ? i / kTile : i % kStep;
      const bool inside = first_row + r < rows && k0 + k < inner;
      const int64_t at =
          kTransposed ? int64_t(k0 + k) * rows + first_row + r : int64_t(first_row + r) * inner + k0 + k;
      a_tile[k][r] = inside ? a[at] : 0.0f;
      const int c = i % kTile, kb = i / kTile;
      b_tile[kb][c] = first_column + c < columns && k0 + kb < inner
                          ? b[int64_t(k0 + kb) * columns + first_column + c]
                          : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sum[i][j] = fmaf(a_tile[k][ty * 4 + i], b_tile[k][tx + 16 * j], sum[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + ty * 4 + i;
    if (row >= rows) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = first_column + tx + 16 * j;
      if (column >= columns) continue;
      float* to = out + int64_t(row) * columns + column;
      *to = kAccumulate ? *to + sum[i][j] : sum[i][j];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    decay_heads_kernel(const float* __restrict__ log_decay, const float* __restrict__ state,
                       const float* __restrict__ added, float* __restrict__ out, int64_t elems) {
  const float decay = log_decay ? expf(log_decay[blockIdx.y]) : 1.0f;
  const int64_t base = int64_t(blockIdx.y) * elems;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < elems;
       i += int64_t(gridDim.x) * kThreads)
    out[base + i] = fmaf(decay, state[base + i], added[base + i]);
}

}  // namespace

void multiply_heads(const Context& ctx, const Tensor& a, FoldOperand op, const Tensor& b, const Tensor& out,
                    FoldOutput output) {
  const int64_t heads = out.dim(0), rows = out.dim(1), columns = out.dim(2), inner = b.dim(1);
  const dim3 grid(unsigned(ceil_div(columns, kTile)), unsigned(ceil_div(rows, kTile)), unsigned(heads));
  const auto launch = [&](auto transposed, auto accumulate) {
    multiply_heads_kernel<decltype(transposed)::value, decltype(accumulate)::value>
        <<<grid, kThreads, 0, stream_of(ctx)>>>(pointer<float>(a), pointer<float>(b), pointer<float>(out),
                                                int(rows), int(columns), int(inner));
  };
  const auto by_operand = [&](auto accumulate) {
    op == FoldOperand::kTransposed ? launch(std::true_type{}, accumulate)
                                   : launch(std::false_type{}, accumulate);
  };
  output == FoldOutput::kAccumulate ? by_operand(std::true_type{}) : by_operand(std::false_type{});
  check_launch("multiply_heads");
}

void decay_heads(const Context& ctx, const Tensor& log_decay, const Tensor& state, const Tensor& added,
                 const Tensor& out) {
  const int64_t heads = out.dim(0), elems = out.dim(1) * out.dim(2);
  const dim3 grid(unsigned(std::min<int64_t>(ceil_div(elems, kThreads), 64)), unsigned(heads));
  decay_heads_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(
      pointer<float>(log_decay), pointer<float>(state), pointer<float>(added), pointer<float>(out), elems);
  check_launch("decay_heads");
}

}  // namespace spanwise::cuda
