#include "core/ops/views.h"

#include <algorithm>

#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

namespace {
constexpr int64_t kRowsPerTask = 32;
}  // namespace

void join_columns(const Context& ctx, const std::vector<Tensor>& blocks, const std::vector<int64_t>& sizes,
                  const Tensor& out) {
  const int64_t columns = out.dim(-1), rows = out.numel() / columns;
  dispatch_float(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    std::vector<Rows> sources;
    for (size_t b = 0; b < blocks.size(); ++b) sources.emplace_back(blocks[b], sizes[b]);
    parallel_blocks(ctx, rows, kRowsPerTask, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        T* to = out.data<T>() + r * columns;
        for (size_t b = 0; b < blocks.size(); ++b) {
          if (blocks[b].defined()) {
            std::copy_n(sources[b].at<T>(r), sizes[b], to);
          } else {
            std::fill_n(to, sizes[b], T(0));
          }
          to += sizes[b];
        }
      }
    });
  });
}

}  // namespace spanwise::cpu
