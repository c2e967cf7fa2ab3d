#pragma once
// Tensors as rows of `width` consecutive elements, contiguous or column blocks of a matrix.

#include "core/ops/cuda/common/alignment.h"
#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

template <class T>
struct RowView {
  T* data = nullptr;
  int64_t stride = 0;  ///< elements between the starts of the matrix' rows
  uint32_t per_row = 1, width = 0;

  __device__ __forceinline__ T* at(int64_t r) const {
    if (per_row == 1) return data + r * stride;
    return data + uint32_t(r) / per_row * stride + uint32_t(r) % per_row * width;
  }
};

/// An undefined tensor gives a view whose data is nullptr. Rows may not cross a column block's border.
template <class T>
RowView<T> rows_of(const Tensor& t, int64_t width) {
  RowView<T> view;
  if (!t.defined()) return view;
  view.data = pointer<std::remove_const_t<T>>(t);
  view.width = uint32_t(width);
  view.stride = t.contiguous() ? width : t.row_stride(t.row_elems());
  view.per_row = uint32_t(t.contiguous() ? 1 : t.row_elems() / width);
  SPANWISE_CHECK(t.contiguous() || t.row_elems() % width == 0,
                 "rows of {} elements cross a column block of shape {}", width, t.shape().str());
  SPANWISE_CHECK(view.per_row == 1 || t.numel() / width <= UINT32_MAX, "{} rows of {} elements are too many",
                 t.numel() / width, width);
  return view;
}

inline int num_multiprocessors() {
  int device = 0, count = 0;
  SPANWISE_CUDA(cudaGetDevice(&device));
  SPANWISE_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

/// Blocks of a kernel that run at once on the whole GPU.
template <class Kernel>
int64_t resident_blocks(Kernel* kernel, int threads, int shared_bytes = 0) {
  int per_multiprocessor = 0;
  SPANWISE_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads,
                                                              size_t(shared_bytes)));
  return int64_t(std::max(per_multiprocessor, 1)) * num_multiprocessors();
}

}  // namespace spanwise::cuda
