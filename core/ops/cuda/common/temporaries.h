#pragma once
// Sizes of temporaries that several kernels share the rules of. No CUDA types: dry runs ask, too.

#include <algorithm>
#include <cstdint>

#include "core/ops/cuda/common/ceil_div.h"
#include "core/tensor.h"

namespace spanwise::cuda {

// head_sums.cuh: kernels over [tokens, heads] numbers.
inline constexpr int kHeadThreads = 256;
inline constexpr int64_t kMostSumBlocks = 264;  ///< along the tokens

struct HeadBlocks {
  int64_t across;           ///< threads of a block across the heads: a power of two
  int64_t along, of_heads;  ///< blocks along the tokens, and across the heads
};
inline HeadBlocks head_blocks(int64_t tokens, int64_t heads, int64_t max_blocks) {
  int64_t across = 1;
  while (across < kHeadThreads && across < heads) across *= 2;
  return {across, std::min(ceil_div(tokens, kHeadThreads / across), max_blocks), ceil_div(heads, across)};
}
/// Partial sums of `num_sums` numbers a head, F32.
inline Shape head_partials(int num_sums, int64_t tokens, int64_t heads) {
  return {num_sums, head_blocks(std::max<int64_t>(tokens, 1), heads, kMostSumBlocks).along, heads};
}

/// At most so many blocks of `threads` run at once on a GPU, whatever their registers: what bounds partials
/// whose number follows a kernel's occupancy.
int64_t most_resident_blocks(int64_t threads);

/// row_kernel.cuh: partials of a weight's gradient, F32, at most. The rows of `width` elements take turns at
/// `groups` rows of the weight.
int64_t most_row_partials(DType dtype, bool aligned, int64_t rows, int64_t width, int64_t groups);

}  // namespace spanwise::cuda
