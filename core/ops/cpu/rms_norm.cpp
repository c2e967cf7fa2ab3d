#include "core/ops/rms_norm.h"

#include <cmath>

#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/reduce_rows.h"

namespace spanwise::cpu {

namespace {
constexpr int64_t kRowsPerBlock = 32;
}  // namespace

void rms_norm_fwd(const Context& ctx, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, const RmsNormForward& out, const DimPart& part) {
  const int64_t width = x.dim(-1), rows = x.numel() / width, whole = part.divided() ? part.whole : width;
  // One row may hold several groups when x is a column block of [.., G·D] seen as [.., G, D].
  const Rows x_rows(x, width), residual_rows(residual, width);
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* w = weight.defined() ? weight.data<T>() : nullptr;
    const int64_t groups = w ? weight.numel() / width : 1;
    T* squares = out.rstd.data<T>();  // until they are reciprocal roots
    const auto add_and_square = [&](int64_t r) {
      const T* xr = x_rows.at<T>(r);
      if (residual.defined()) {
        const T* res = residual_rows.at<T>(r);
        T* sum = out.sum.data<T>() + r * width;
        for (int64_t i = 0; i < width; ++i) sum[i] = xr[i] + res[i];
        xr = sum;
      }
      T square = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t i = 0; i < width; ++i) square += xr[i] * xr[i];
      squares[r] = square;
    };
    const auto normalise = [&](int64_t r) {
      const T* xr = residual.defined() ? out.sum.data<T>() + r * width : x_rows.at<T>(r);
      const T rstd = T(1) / std::sqrt(squares[r] / T(whole) + T(eps));
      out.rstd.data<T>()[r] = rstd;
      const T* wr = w ? w + (r % groups) * width : nullptr;
      T* y = out.y.data<T>() + r * width;
      for (int64_t i = 0; i < width; ++i) y[i] = xr[i] * rstd * (wr ? wr[i] : T(1));
    };
    reduce_rows(ctx, rows, kRowsPerBlock, add_and_square, part, out.rstd, normalise);
  });
}

void rms_norm_bwd(Context& ctx, const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                  const Tensor& rstd, const RmsNormBackward& out, const DimPart& part) {
  const int64_t width = x.dim(-1), rows = x.numel() / width, whole = part.divided() ? part.whole : width;
  const Rows x_rows(x, width), dy_rows(dy, width), dsum_rows(dsum, width);
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* w = weight.defined() ? weight.data<T>() : nullptr;
    const int64_t groups = w ? weight.numel() / width : 1;
    const Tensor dots = Tensor::empty(ctx, {rows}, x.dtype());
    const auto multiply = [&](int64_t r) {
      const T *xr = x_rows.at<T>(r), *g = dy_rows.at<T>(r), *wr = w ? w + (r % groups) * width : nullptr;
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < width; ++i) dot += g[i] * (wr ? wr[i] : T(1)) * xr[i];
      dots.data<T>()[r] = dot;
    };
    const auto differentiate = [&](int64_t r) {
      const T *xr = x_rows.at<T>(r), *g = dy_rows.at<T>(r), *wr = w ? w + (r % groups) * width : nullptr;
      const T scale = rstd.data<T>()[r], mean = dots.data<T>()[r] * scale * scale / T(whole);
      T* dx = out.dx.data<T>() + r * width;
      for (int64_t i = 0; i < width; ++i) dx[i] = scale * (g[i] * (wr ? wr[i] : T(1)) - xr[i] * mean);
      if (dsum.defined()) {
        const T* ds = dsum_rows.at<T>(r);
        for (int64_t i = 0; i < width; ++i) dx[i] += ds[i];
      }
    };
    reduce_rows(ctx, rows, kRowsPerBlock, multiply, part, dots, differentiate);
    if (w) {
      column_sums<T>(ctx, rows / groups, groups * width, out.dweight.data<T>(), [&](int64_t row, T* sums) {
        for (int64_t g = 0; g < groups; ++g) {
          const int64_t r = row * groups + g;
          const T *xr = x_rows.at<T>(r), *d = dy_rows.at<T>(r);
          const T scale = rstd.data<T>()[r];
          for (int64_t i = 0; i < width; ++i) sums[g * width + i] += d[i] * xr[i] * scale;
        }
      });
    }
  });
}

}  // namespace spanwise::cpu
