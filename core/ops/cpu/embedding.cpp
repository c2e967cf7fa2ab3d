#include "core/ops/embedding.h"

#include <algorithm>

#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

namespace {
constexpr int64_t kTokensPerBlock = 64;
// Wide enough that a block is some cache lines, narrow enough that every thread gets some.
constexpr int64_t kColumnsPerBlock = 64;
}  // namespace

void embedding_fwd(const Context& ctx, const std::vector<int32_t>& tokens, const Tensor& weight,
                   const Tensor& y) {
  const int64_t vocab = weight.dim(0), width = weight.dim(1);
  dispatch_float(weight.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_blocks(ctx, int64_t(tokens.size()), kTokensPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* row = y.data<T>() + i * width;
        if (tokens[i] >= 0 && tokens[i] < vocab) {
          std::copy_n(weight.data<T>() + tokens[i] * width, width, row);
        } else {
          std::fill_n(row, width, T(0));
        }
      }
    });
  });
}

// Threads own columns, not tokens: two tokens with one id never meet, and each sum has one order.
void embedding_bwd(const Context& ctx, const Tensor& dy, const std::vector<int32_t>& tokens,
                   const Tensor& dweight, bool accumulate) {
  const int64_t vocab = dweight.dim(0), width = dweight.dim(1);
  dispatch_float(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_blocks(ctx, width, kColumnsPerBlock, [&](int64_t begin, int64_t end) {
      T* dw = dweight.data<T>();
      if (!accumulate) {
        for (int64_t v = 0; v < vocab; ++v) std::fill(dw + v * width + begin, dw + v * width + end, T(0));
      }
      for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i] < 0 || tokens[i] >= vocab) continue;
        const T* g = dy.data<T>() + int64_t(i) * width;
        T* row = dw + tokens[i] * width;
        for (int64_t c = begin; c < end; ++c) row[c] += g[c];
      }
    });
  });
}

}  // namespace spanwise::cpu
