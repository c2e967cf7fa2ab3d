#include "core/ops/cuda/common/partial_sums.h"

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

namespace {

constexpr int kColumns = 32, kLanes = 32;

// A thread adds every kLanes-th partial of one column, then the block adds its lanes in order.
__global__ void __launch_bounds__(kColumns* kLanes)
    sum_partials_kernel(const float* __restrict__ partial, int64_t count, int64_t columns,
                        float* __restrict__ to) {
  __shared__ float sums[kLanes][kColumns + 1];
  const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t p = threadIdx.y; p < count; p += kLanes) sum += partial[p * columns + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  float total = 0;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) total += sums[lane][threadIdx.x];
  to[column] = total;
}

}  // namespace

void sum_partials(const Context& ctx, const float* partial, int64_t count, int64_t columns, float* to) {
  if (columns == 0) return;
  sum_partials_kernel<<<unsigned(ceil_div(columns, kColumns)), dim3(kColumns, kLanes), 0, stream_of(ctx)>>>(
      partial, count, columns, to);
  check_launch("sum_partials");
}

}  // namespace spanwise::cuda
