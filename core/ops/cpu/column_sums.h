#pragma once
// Row access to tensors that may be column blocks, and sums over rows for parameter gradients.

#include <algorithm>
#include <vector>

#include "core/ops/cpu/parallel_for.h"
#include "core/tensor.h"

namespace spanwise::cpu {

/// Rows of `width` elements of a tensor, contiguous or a column block whose rows hold a whole number of them.
/// An undefined tensor gives an unusable but harmless Rows.
class Rows {
 public:
  Rows(const Tensor& t, int64_t width) : width_(width) {
    if (!t.defined()) return;
    raw_ = static_cast<char*>(t.raw());
    elem_ = int64_t(size_of(t.dtype()));
    stride_ = t.contiguous() ? width : t.row_stride(t.row_elems());
    per_row_ = t.contiguous() ? 1 : t.row_elems() / width;
    SPANWISE_CHECK(per_row_ * width == (t.contiguous() ? width : t.row_elems()),
                   "rows of {} elements cross a column block of shape {}", width, t.shape().str());
  }
  template <class T>
  T* at(int64_t r) const {
    const int64_t element = per_row_ == 1 ? r * stride_ : (r / per_row_) * stride_ + (r % per_row_) * width_;
    return reinterpret_cast<T*>(raw_ + element * elem_);
  }

 private:
  char* raw_ = nullptr;
  int64_t width_, stride_ = 0, per_row_ = 1, elem_ = 0;
};

/// out[c] = Σ_rows term(row, c), where add(row, sums) does sums[c] += term. Rows are cut into a number of
/// blocks that depends on `rows` alone and the blocks' sums are added in order, so the result does not depend
/// on the thread count. `min_rows`: rows that are worth a block; fewer where add() does more than add.
template <class T, class F>
void column_sums(const Context& ctx, int64_t rows, int64_t columns, T* out, F&& add, int64_t min_rows = 64) {
  const int64_t num_blocks = std::clamp<int64_t>(rows / min_rows, 1, 32);
  std::vector<T> partial(size_t(num_blocks * columns), T(0));
  parallel_for(ctx, num_blocks, [&](int64_t b) {
    T* sums = partial.data() + b * columns;
    for (int64_t r = rows * b / num_blocks; r < rows * (b + 1) / num_blocks; ++r) add(r, sums);
  });
  std::fill_n(out, columns, T(0));
  for (int64_t b = 0; b < num_blocks; ++b) {
    for (int64_t c = 0; c < columns; ++c) out[c] += partial[b * columns + c];
  }
}

}  // namespace spanwise::cpu
