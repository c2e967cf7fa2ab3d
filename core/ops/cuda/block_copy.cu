#include <algorithm>

#include "core/ops/block_copy.h"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGrid = 132 * 8;
// Blocks travel as kernel arguments, of which there are 4 KB.
constexpr int kBlocksALaunch = 64;

struct BlockList {
  MovedBlock blocks[kBlocksALaunch];
};

/// Calls fn(from, to) for every element of a block, spread over the grid's x.
template <class F>
__device__ __forceinline__ void for_each_element(const MovedBlock& b, F&& fn) {
  const int64_t numel = b.rows * b.width, stride = int64_t(gridDim.x) * kThreads;
  int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (numel <= INT32_MAX - stride) {  // 64-bit divisions are slow
    for (uint32_t j = uint32_t(i), width = uint32_t(b.width); j < uint32_t(numel); j += uint32_t(stride)) {
      const uint32_t row = j / width, column = j - row * width;
      fn(b.from + row * b.from_stride + column, b.to + row * b.to_stride + column);
    }
    return;
  }
  for (; i < numel; i += stride) {
    const int64_t row = i / b.width, column = i - row * b.width;
    fn(b.from + row * b.from_stride + column, b.to + row * b.to_stride + column);
  }
}

/// Blocks in units of V.
template <class V>
__global__ void __launch_bounds__(kThreads)
    copy_blocks_kernel(const __grid_constant__ BlockList list, const V* __restrict__ source,
                       V* __restrict__ target) {
  for_each_element(list.blocks[blockIdx.y], [&](int64_t from, int64_t to) { target[to] = source[from]; });
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    add_block_kernel(MovedBlock block, const From* __restrict__ source, To* __restrict__ target) {
  for_each_element(block, [&](int64_t from, int64_t to) {
    target[to] = from_float<To>(to_float(target[to]) + to_float(source[from]));
  });
}

unsigned grid_for(int64_t numel) {
  return unsigned(std::clamp<int64_t>(ceil_div(numel, kThreads * 4), 1, kMaxGrid));
}

/// Rows that follow each other on both sides as one.
MovedBlock joined(MovedBlock b) {
  if (b.from_stride == b.width && b.to_stride == b.width) b = {1, b.rows * b.width, b.from, 0, b.to, 0};
  return b;
}

/// In bytes, without empty ones.
std::vector<MovedBlock> byte_blocks(const std::vector<MovedBlock>& blocks, int64_t elem) {
  std::vector<MovedBlock> out;
  for (const MovedBlock& block : blocks) {
    if (block.rows == 0 || block.width == 0) continue;
    const MovedBlock b = joined(block);
    out.push_back(
        {b.rows, b.width * elem, b.from * elem, b.from_stride * elem, b.to * elem, b.to_stride * elem});
  }
  return out;
}

/// The largest power of two up to 16 that divides every address and width.
int64_t common_bytes(const std::vector<MovedBlock>& blocks, const Tensor& source, const Tensor& target) {
  uint64_t bits = 16 | reinterpret_cast<uintptr_t>(source.raw()) | reinterpret_cast<uintptr_t>(target.raw());
  for (const MovedBlock& b : blocks) bits |= uint64_t(b.width | b.from | b.from_stride | b.to | b.to_stride);
  return int64_t(bits & (~bits + 1));
}

template <class F>
void dispatch_unit(int64_t bytes, F&& fn) {
  if (bytes == 16) return fn(uint4{});
  if (bytes == 8) return fn(uint2{});
  if (bytes == 4) return fn(uint32_t{});
  if (bytes == 2) return fn(uint16_t{});
  fn(uint8_t{});
}

}  // namespace

void copy_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                 const std::vector<MovedBlock>& blocks) {
  const std::vector<MovedBlock> bytes = byte_blocks(blocks, int64_t(size_of(source.dtype())));
  const int64_t unit = common_bytes(bytes, source, target);
  for (size_t first = 0; first < bytes.size(); first += kBlocksALaunch) {
    const size_t count = std::min<size_t>(kBlocksALaunch, bytes.size() - first);
    BlockList list{};
    int64_t largest = 0;
    for (size_t i = 0; i < count; ++i) {
      const MovedBlock& b = bytes[first + i];
      list.blocks[i] = {b.rows,      b.width / unit,    b.from / unit, b.from_stride / unit,
                        b.to / unit, b.to_stride / unit};
      largest = std::max(largest, b.rows * (b.width / unit));
    }
    const dim3 grid(grid_for(largest), unsigned(count));
    dispatch_unit(unit, [&](auto zero) {
      using V = decltype(zero);
      copy_blocks_kernel<V><<<grid, kThreads, 0, stream_of(ctx)>>>(list, static_cast<const V*>(source.raw()),
                                                                   static_cast<V*>(target.raw()));
    });
    check_launch("copy_blocks");
  }
}

// One launch a block: blocks may add to the same elements, in the order given.
void add_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                const std::vector<MovedBlock>& blocks) {
  dispatch_cuda(source.dtype(), [&](auto from_zero) {
    dispatch_cuda(target.dtype(), [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      if constexpr (sizeof(From) <= sizeof(To)) {
        for (const MovedBlock& block : blocks) {
          if (block.rows == 0 || block.width == 0) continue;
          const MovedBlock b = joined(block);
          add_block_kernel<<<grid_for(b.rows * b.width), kThreads, 0, stream_of(ctx)>>>(
              b, pointer<From>(source), pointer<To>(target));
        }
      }
    });
  });
  check_launch("add_blocks");
}

}  // namespace spanwise::cuda
