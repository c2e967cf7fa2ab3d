#include "core/ops/block_copy.h"

#include "core/ops/cuda/common/pack.cuh"
#include "core/ops/cuda/common/rows.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;

// One block of rows × width; kAdd: target += source.
template <class T, int kWidth, bool kAdd>
__global__ void __launch_bounds__(kThreads) move_block_kernel(const T* __restrict__ from, T* __restrict__ to,
                                                              const Block block, unsigned blocks_per_row) {
  const int64_t row = blockIdx.x / blocks_per_row;
  const int64_t column = (int64_t(blockIdx.x % blocks_per_row) * kThreads + threadIdx.x) * kWidth;
  if (column >= block.width) return;
  const auto source = Pack<T, kWidth>::load(from + block.from + row * block.from_stride + column);
  T* target = to + block.to + row * block.to_stride + column;
  if constexpr (kAdd) {
    const auto old = Pack<T, kWidth>::load(target);
    float sum[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] = old.get(i) + source.get(i);
    Pack<T, kWidth>::from(sum).store(target);
  } else {
    source.store(target);
  }
}

template <class T, bool kAdd>
void move_blocks(const Tensor& source, const Tensor& target, const std::vector<Block>& blocks) {
  constexpr int kWide = kVector<T>;
  const bool bases = reinterpret_cast<uintptr_t>(source.raw()) % 16 == 0 &&
                     reinterpret_cast<uintptr_t>(target.raw()) % 16 == 0;
  for (const Block& b : blocks) {
    if (b.rows == 0 || b.width == 0) continue;
    const bool aligned =
        bases && (b.width | b.from | b.to | (b.rows > 1 ? b.from_stride | b.to_stride : 0)) % kWide == 0;
    const auto launch = [&](auto pack) {
      constexpr int kWidth = decltype(pack)::value;
      const int64_t across = ceil_div(b.width, kThreads * kWidth);
      SPANWISE_CHECK(across * b.rows <= INT32_MAX, "a block of {} x {} elements is too large", b.rows,
                     b.width);
      move_block_kernel<T, kWidth, kAdd><<<unsigned(across * b.rows), kThreads, 0, source.stream()>>>(
          pointer<T>(source), pointer<T>(target), b, unsigned(across));
    };
    aligned ? launch(std::integral_constant<int, kWide>{}) : launch(std::integral_constant<int, 1>{});
  }
  check_launch("move_blocks");
}

}  // namespace

void copy_blocks(const Tensor& source, const Tensor& target, const std::vector<Block>& blocks) {
  dispatch_cuda(source.dtype(),
                [&](auto zero) { move_blocks<decltype(zero), false>(source, target, blocks); });
}

void add_blocks(const Tensor& source, const Tensor& target, const std::vector<Block>& blocks) {
  dispatch_cuda(source.dtype(),
                [&](auto zero) { move_blocks<decltype(zero), true>(source, target, blocks); });
}

}  // namespace spanwise::cuda
