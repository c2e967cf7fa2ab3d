#pragma once
// Kernels that reduce every row to a number and then use it, where a row may go on in other parts.

#include "core/ops/cpu/parallel_for.h"
#include "core/ops/dim_part.h"

namespace spanwise::cpu {

/// reduce(r) then use(r) for every row: in one pass, a row at a time while it is in the cache; in two passes
/// with part.sum(numbers) between them where rows are divided.
template <class F, class G>
void reduce_rows(const Context& ctx, int64_t rows, int64_t grain, F&& reduce, const DimPart& part,
                 const Tensor& numbers, G&& use) {
  if (!part.divided()) {
    parallel_blocks(ctx, rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        reduce(r);
        use(r);
      }
    });
    return;
  }
  parallel_blocks(ctx, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) reduce(r);
  });
  part.sum(numbers);
  parallel_blocks(ctx, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) use(r);
  });
}

}  // namespace spanwise::cpu
