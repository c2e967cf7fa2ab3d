#pragma once
// Tensors as rows of `width` consecutive elements, contiguous or column blocks of a matrix.

#include <initializer_list>

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

/// True if every pack of pack_elems consecutive elements of every defined tensor's rows, counted from the
/// row's start, is aligned to the smaller of its size and 16 bytes, and fills rows of `width` exactly.
inline bool rows_are_aligned(std::initializer_list<const Tensor*> tensors, int64_t width, int pack_elems) {
  if (width % pack_elems != 0) return false;
  for (const Tensor* t : tensors) {
    if (!t->defined()) continue;
    const int64_t size = int64_t(size_of(t->dtype())), bytes = std::min<int64_t>(pack_elems * size, 16);
    const int64_t stride = t->contiguous() ? width : t->row_stride(t->row_elems());
    if (reinterpret_cast<uintptr_t>(t->raw()) % bytes != 0 || stride * size % bytes != 0) return false;
  }
  return true;
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
