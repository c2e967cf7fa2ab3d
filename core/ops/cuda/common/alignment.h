#pragma once
// Whether kernels can read rows in packs. No CUDA types: dry runs ask, too, whose addresses are aligned as a
// GPU's.

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "core/tensor.h"

namespace spanwise::cuda {

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

/// Of rows of heads of a [B, T, heads, width] tensor that kernels read 16 bytes at a time.
inline bool heads_are_aligned(const Tensor& t) {
  const int64_t bytes = t.row_stride(t.dim(2) * t.dim(3)) * int64_t(size_of(t.dtype()));
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && bytes % 16 == 0;
}

}  // namespace spanwise::cuda
