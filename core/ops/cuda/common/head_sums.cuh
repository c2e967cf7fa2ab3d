#pragma once
// Kernels over [tokens, heads] numbers, a thread a head and every few tokens, that also sum over the tokens
// for the gradients of per-head parameters.

#include "core/ops/cuda/common/partial_sums.h"
#include "core/ops/cuda/common/rows.cuh"
#include "core/ops/cuda/common/temporaries.h"

namespace spanwise::cuda {

inline constexpr int kMaxHeadSums = 2;

/// op(int64_t token, int head, float (&sums)[kSums]) adds to sums. partials [kSums][blocks, heads].
template <int kSums, class Op>
__global__ void __launch_bounds__(kHeadThreads)
    for_each_head_kernel(int64_t tokens, int heads, const Op op, float* __restrict__ partials) {
  const int head = blockIdx.y * blockDim.x + threadIdx.x;
  float sums[kMaxHeadSums] = {};
  if (head < heads) {
    for (int64_t t = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; t < tokens;
         t += int64_t(gridDim.x) * blockDim.y)
      op(t, head, sums);
  }
  if constexpr (kSums > 0) {
    __shared__ float shared[kSums][kHeadThreads];
#pragma unroll
    for (int k = 0; k < kSums; ++k) shared[k][threadIdx.y * blockDim.x + threadIdx.x] = sums[k];
    __syncthreads();
    if (threadIdx.y != 0 || head >= heads) return;
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      float total = 0;
      for (int y = 0; y < int(blockDim.y); ++y) total += shared[k][y * blockDim.x + threadIdx.x];
      partials[(int64_t(k) * gridDim.x + blockIdx.x) * heads + head] = total;
    }
  }
}

struct HeadGrid {
  dim3 blocks, threads;
};
inline HeadGrid head_grid(int64_t tokens, int64_t heads, int64_t max_blocks) {
  const HeadBlocks blocks = head_blocks(tokens, heads, max_blocks);
  return {dim3(unsigned(blocks.along), unsigned(blocks.of_heads)),
          dim3(unsigned(blocks.across), unsigned(kHeadThreads / blocks.across))};
}

template <class Op>
void for_each_head(const Context& ctx, const char* name, int64_t tokens, int64_t heads, const Op& op) {
  if (tokens * heads == 0) return;
  const HeadGrid grid = head_grid(tokens, heads, 1 << 20);
  for_each_head_kernel<0><<<grid.blocks, grid.threads, 0, stream_of(ctx)>>>(tokens, int(heads), op, nullptr);
  check_launch(name);
}

/// sums[k] [heads] (=) what op added over all tokens.
template <int kSums, class Op>
void sum_over_tokens(Context& ctx, const char* name, int64_t tokens, int64_t heads, const Op& op,
                     const Tensor* const (&sums)[kSums]) {
  static_assert(kSums <= kMaxHeadSums);
  const HeadGrid grid = head_grid(std::max<int64_t>(tokens, 1), heads, kMostSumBlocks);
  const Tensor partials = Tensor::empty(ctx, head_partials(kSums, tokens, heads), DType::kF32);
  for_each_head_kernel<kSums>
      <<<grid.blocks, grid.threads, 0, stream_of(ctx)>>>(tokens, int(heads), op, partials.data<float>());
  check_launch(name);
  for (int k = 0; k < kSums; ++k) {
    sum_partials(ctx, partials.data<float>() + k * grid.blocks.x * heads, grid.blocks.x, heads,
                 pointer<float>(*sums[k]));
  }
}

}  // namespace spanwise::cuda
