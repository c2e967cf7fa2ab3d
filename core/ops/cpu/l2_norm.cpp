#include "core/ops/l2_norm.h"

#include <cmath>

#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

namespace {
constexpr int64_t kRowsPerBlock = 64;
}  // namespace

void l2_norm_fwd(const Context& ctx, const Tensor& x, double eps, const Tensor& y, const Tensor& rstd) {
  const int64_t width = x.dim(-1);
  const Rows x_rows(x, width);
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_blocks(ctx, rstd.numel(), kRowsPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* from = x_rows.at<T>(r);
        T* __restrict to = y.data<T>() + r * width;
        T square = 0;
#pragma omp simd reduction(+ : square)
        for (int64_t i = 0; i < width; ++i) square += from[i] * from[i];
        const T scale = T(1) / std::sqrt(square + T(eps));
        rstd.data<T>()[r] = scale;
        for (int64_t i = 0; i < width; ++i) to[i] = from[i] * scale;
      }
    });
  });
}

void l2_norm_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, const Tensor& rstd,
                 const Tensor& dx) {
  const int64_t width = y.dim(-1);
  const Rows dy_rows(dy, width);
  dispatch_float(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_blocks(ctx, rstd.numel(), kRowsPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T *d = dy_rows.at<T>(r), *yr = y.data<T>() + r * width;
        T* __restrict to = dx.data<T>() + r * width;
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < width; ++i) dot += d[i] * yr[i];
        const T scale = rstd.data<T>()[r];
        for (int64_t i = 0; i < width; ++i) to[i] = scale * (d[i] - yr[i] * dot);
      }
    });
  });
}

}  // namespace spanwise::cpu
