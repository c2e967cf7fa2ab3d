#pragma once
// Elementwise loops over tensors of equal shape, some of which may be column blocks.

#include <algorithm>
#include <initializer_list>

#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/tensor.h"

namespace spanwise::cpu {

/// The widest rows that all of the tensors hold consecutively. Their shapes are equal, so the narrowest block
/// divides the others.
inline int64_t common_row_width(std::initializer_list<const Tensor*> tensors) {
  int64_t width = (*tensors.begin())->numel();
  for (const Tensor* t : tensors) {
    if (!t->contiguous()) width = std::min(width, t->row_elems());
  }
  return width;
}

/// fn(row, begin, count) covers elements [begin, begin + count) of each row of `width`, in stretches of a few
/// thousand elements shared out over the threads.
template <class F>
void parallel_elements(const Context& ctx, int64_t num_elems, int64_t width, F&& fn) {
  constexpr int64_t kElemsPerBlock = 8192;
  parallel_blocks(ctx, num_elems, kElemsPerBlock, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t row = first / width, begin = first % width;
      const int64_t count = std::min(last - first, width - begin);
      fn(row, begin, count);
      first += count;
    }
  });
}

}  // namespace spanwise::cpu
