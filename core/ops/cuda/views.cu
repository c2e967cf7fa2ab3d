#include "core/ops/views.h"

#include "core/ops/cuda/common/pack.cuh"
#include "core/ops/cuda/common/rows.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256, kMaxBlocks = 16;

// Column blocks of one output; those without data are zeros.
template <class T>
struct Join {
  RowView<const T> from[kMaxBlocks];
  int32_t begin[kMaxBlocks + 1];  // their columns, relative to the first one's
  int32_t count;
  T* to;  // of the first block
  int64_t rows, columns;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) join_columns_kernel(const Join<T> a) {
  const int width = a.begin[a.count];
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    for (int column = threadIdx.x * kWidth; column < width; column += kThreads * kWidth) {
      Pack<T, kWidth> values = Pack<T, kWidth>::zero();
#pragma unroll
      for (int b = 0; b < kMaxBlocks; ++b) {
        if (b < a.count && column >= a.begin[b] && column < a.begin[b + 1] && a.from[b].data)
          values = Pack<T, kWidth>::load(a.from[b].at(row) + column - a.begin[b]);
      }
      values.store(a.to + row * a.columns + column);
    }
  }
}

}  // namespace

void join_columns(const Context& ctx, const std::vector<Tensor>& blocks, const std::vector<int64_t>& sizes,
                  const Tensor& out) {
  const int64_t columns = out.dim(-1), rows = out.numel() / columns;
  if (rows == 0) return;
  dispatch_cuda(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    constexpr int kWide = kVector<T>;
    int64_t offset = 0;
    for (size_t first = 0; first < blocks.size(); first += kMaxBlocks) {
      Join<T> a{};
      a.count = int32_t(std::min<size_t>(blocks.size() - first, kMaxBlocks));
      a.to = pointer<T>(out) + offset;
      a.rows = rows;
      a.columns = columns;
      bool aligned = rows_are_aligned({&out}, columns, kWide) && offset % kWide == 0;
      for (int b = 0; b < a.count; ++b) {
        const Tensor& block = blocks[first + b];
        const int64_t size = sizes[first + b];
        a.from[b] = rows_of<const T>(block, size);
        a.begin[b + 1] = a.begin[b] + int32_t(size);
        aligned &= rows_are_aligned({&block}, size, kWide);
      }
      offset += a.begin[a.count];
      const unsigned grid = unsigned(std::min<int64_t>(rows, 1 << 20));
      if (aligned) {
        join_columns_kernel<T, kWide><<<grid, kThreads, 0, stream_of(ctx)>>>(a);
      } else {
        join_columns_kernel<T, 1><<<grid, kThreads, 0, stream_of(ctx)>>>(a);
      }
    }
  });
  check_launch("join_columns");
}

}  // namespace spanwise::cuda
