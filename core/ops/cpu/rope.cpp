#include "core/ops/rope.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

namespace {
constexpr int64_t kTokensPerBlock = 16;
}  // namespace

void rope_table(const Context& ctx, const std::vector<int64_t>& distinct_positions,
                const std::vector<double>& frequencies, const Tensor& cos_sin) {
  const int64_t half = int64_t(frequencies.size());
  dispatch_float(cos_sin.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_blocks(ctx, int64_t(distinct_positions.size()), kTokensPerBlock,
                    [&](int64_t begin, int64_t end) {
                      for (int64_t p = begin; p < end; ++p) {
                        T* row = cos_sin.data<T>() + p * 2 * half;
                        for (int64_t i = 0; i < half; ++i) {
                          const double angle = double(distinct_positions[p]) * frequencies[i];
                          row[i] = T(std::cos(angle));
                          row[half + i] = T(std::sin(angle));
                        }
                      }
                    });
  });
}

void rope_apply(const Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction,
                const Tensor& y) {
  const int64_t heads = x.dim(2), width = x.dim(3), half = table.cos_sin.dim(1) / 2;
  const Rows x_rows(x, width);
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T sign = direction == RopeDirection::kForward ? T(1) : T(-1);
    parallel_blocks(ctx, int64_t(table.row.size()), kTokensPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T *cos = table.cos_sin.data<T>() + table.row[t] * 2 * half, *sin = cos + half;
        for (int64_t h = 0; h < heads; ++h) {
          const T* in = x_rows.at<T>(t * heads + h);
          T* out = y.data<T>() + (t * heads + h) * width;
#pragma omp simd
          for (int64_t i = 0; i < half; ++i) {
            const T a = in[i], b = in[half + i], s = sign * sin[i];
            out[i] = a * cos[i] - b * s;
            out[half + i] = b * cos[i] + a * s;
          }
          std::copy(in + 2 * half, in + width, out + 2 * half);
        }
      }
    });
  });
}

}  // namespace spanwise::cpu
