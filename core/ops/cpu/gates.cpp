#include "core/ops/gates.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/activations.h"
#include "core/ops/cpu/elementwise.h"

namespace spanwise::cpu {

namespace {

constexpr int64_t kTokensPerBlock = 64;

// −e^{A_log}, one per head.
template <class T>
std::vector<T> negative_exp(const Tensor& A_log) {
  std::vector<T> a(size_t(A_log.numel()));
  for (size_t h = 0; h < a.size(); ++h) a[h] = -std::exp(A_log.data<T>()[h]);
  return a;
}

template <class T>
T dot(int64_t n, const T* a, const T* b) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Two parameter gradients of H elements each, summed side by side: add(token, first, second).
template <class T, class F>
void head_sums(const Context& ctx, int64_t tokens, const Tensor& first, const Tensor& second, F&& add) {
  const int64_t heads = first.numel();
  std::vector<T> sums(size_t(2 * heads));
  column_sums<T>(ctx, tokens, 2 * heads, sums.data(),
                 [&](int64_t token, T* partial) { add(token, partial, partial + heads); });
  std::copy_n(sums.data(), heads, first.data<T>());
  std::copy_n(sums.data() + heads, heads, second.data<T>());
}

}  // namespace

void decay_gate_fwd(const Context& ctx, const Tensor& a, const Tensor& A_log, const Tensor& dt_bias,
                    const Tensor& g) {
  const int64_t heads = a.dim(-1), tokens = a.numel() / heads;
  const Rows a_rows(a, heads);
  dispatch_float(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> scale = negative_exp<T>(A_log);
    const T *rate = scale.data(), *bias = dt_bias.data<T>();
    parallel_blocks(ctx, tokens, kTokensPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* from = a_rows.at<T>(t);
        T* __restrict to = g.data<T>() + t * heads;
        for (int64_t h = 0; h < heads; ++h) to[h] = rate[h] * softplus(from[h] + bias[h]);
      }
    });
  });
}

void decay_gate_bwd(const Context& ctx, const Tensor& dg, const Tensor& a, const Tensor& A_log,
                    const Tensor& dt_bias, const Tensor& g, const DecayGateGradients& grads) {
  const int64_t heads = a.dim(-1), tokens = a.numel() / heads;
  const Rows a_rows(a, heads), dg_rows(dg, heads);
  dispatch_float(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> scale = negative_exp<T>(A_log);
    const T *rate = scale.data(), *bias = dt_bias.data<T>();
    head_sums<T>(ctx, tokens, grads.dA_log, grads.ddt_bias, [&](int64_t t, T* dA_log, T* ddt_bias) {
      const T *ar = a_rows.at<T>(t), *d = dg_rows.at<T>(t), *gr = g.data<T>() + t * heads;
      T* __restrict da = grads.da.data<T>() + t * heads;
      for (int64_t h = 0; h < heads; ++h) da[h] = rate[h] * sigmoid(ar[h] + bias[h]) * d[h];
      for (int64_t h = 0; h < heads; ++h) {
        dA_log[h] += gr[h] * d[h];
        ddt_bias[h] += da[h];
      }
    });
  });
}

void scaled_sigmoid_fwd(const Context& ctx, const Tensor& x, double scale, const Tensor& y) {
  const int64_t width = common_row_width({&x});
  const Rows x_rows(x, width);
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_elements(ctx, x.numel(), width, [&](int64_t row, int64_t begin, int64_t count) {
      const T* from = x_rows.at<T>(row) + begin;
      T* __restrict to = y.data<T>() + row * width + begin;
      for (int64_t i = 0; i < count; ++i) to[i] = T(scale) * sigmoid(from[i]);
    });
  });
}

void scaled_sigmoid_bwd(const Context& ctx, const Tensor& dy, const Tensor& y, double scale,
                        const Tensor& dx) {
  const int64_t width = common_row_width({&dy});
  const Rows dy_rows(dy, width);
  dispatch_float(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_elements(ctx, y.numel(), width, [&](int64_t row, int64_t begin, int64_t count) {
      const T *d = dy_rows.at<T>(row) + begin, *from = y.data<T>() + row * width + begin;
      T* __restrict to = dx.data<T>() + row * width + begin;
      for (int64_t i = 0; i < count; ++i) to[i] = d[i] * from[i] * (T(1) - from[i] / T(scale));
    });
  });
}

void mamba2_gates_fwd(const Context& ctx, const Mamba2GatesTensors& t) {
  const int64_t heads = t.x.dim(2), width = t.x.dim(3), tokens = t.dt.numel() / heads;
  const Rows x_rows(t.x, width), dt_rows(t.dt, heads);
  dispatch_float(t.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> A = negative_exp<T>(t.A_log);
    const T *rate = A.data(), *bias = t.dt_bias.data<T>(), low = T(t.range.min), high = T(t.range.max);
    parallel_blocks(ctx, tokens, kTokensPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* dt = dt_rows.at<T>(i);
        T* __restrict delta = t.delta.data<T>() + i * heads;
        T* __restrict g = t.g.data<T>() + i * heads;
        for (int64_t h = 0; h < heads; ++h) delta[h] = softplus(dt[h] + bias[h]);
        for (int64_t h = 0; h < heads; ++h) {
          delta[h] = std::clamp(delta[h], low, high);
          g[h] = rate[h] * delta[h];
        }
        for (int64_t h = 0; h < heads; ++h) {
          const T *x = x_rows.at<T>(i * heads + h), step = delta[h];
          T* __restrict v = t.v.data<T>() + (i * heads + h) * width;
          for (int64_t p = 0; p < width; ++p) v[p] = step * x[p];
        }
      }
    });
  });
}

void mamba2_gates_bwd(const Context& ctx, const Tensor& dv, const Tensor& dg, const Mamba2GatesTensors& t,
                      const Mamba2GatesGradients& grads) {
  const int64_t heads = t.x.dim(2), width = t.x.dim(3), tokens = t.dt.numel() / heads;
  const Rows x_rows(t.x, width), dt_rows(t.dt, heads), dv_rows(dv, width), dg_rows(dg, heads);
  dispatch_float(t.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> A = negative_exp<T>(t.A_log);
    const T *bias = t.dt_bias.data<T>(), low = T(t.range.min), high = T(t.range.max);
    head_sums<T>(ctx, tokens, grads.dA_log, grads.ddt_bias, [&](int64_t i, T* dA_log, T* ddt_bias) {
      const T *dt = dt_rows.at<T>(i), *dgr = dg_rows.at<T>(i);
      const T *delta = t.delta.data<T>() + i * heads, *g = t.g.data<T>() + i * heads;
      T* __restrict ddt = grads.ddt.data<T>() + i * heads;
      for (int64_t h = 0; h < heads; ++h) {
        const T slope = sigmoid(dt[h] + bias[h]);
        ddt[h] = (delta[h] > low) & (delta[h] < high) ? slope : T(0);
      }
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t r = i * heads + h;
        const T *x = x_rows.at<T>(r), *d = dv_rows.at<T>(r);
        T* __restrict dx = grads.dx.data<T>() + r * width;
        for (int64_t p = 0; p < width; ++p) dx[p] = delta[h] * d[p];
        ddt[h] *= dot(width, d, x) + A[h] * dgr[h];
        ddt_bias[h] += ddt[h];
        dA_log[h] += g[h] * dgr[h];
      }
    });
  });
}

void head_skip_fwd(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& D, const Tensor& out) {
  const int64_t heads = x.dim(2), width = x.dim(3), rows = x.numel() / width;
  const Rows y_rows(y, width), x_rows(x, width);
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_blocks(ctx, rows, kTokensPerBlock * heads, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T *from = y_rows.at<T>(r), *skip = x_rows.at<T>(r), scale = D.data<T>()[r % heads];
        T* __restrict to = out.data<T>() + r * width;
        for (int64_t p = 0; p < width; ++p) to[p] = from[p] + scale * skip[p];
      }
    });
  });
}

void head_skip_bwd(const Context& ctx, const Tensor& dout, const Tensor& x, const Tensor& D, const Tensor& dx,
                   const Tensor& dD) {
  const int64_t heads = x.dim(2), width = x.dim(3), tokens = x.numel() / (heads * width);
  const Rows dout_rows(dout, width), x_rows(x, width);
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    column_sums<T>(ctx, tokens, heads, dD.data<T>(), [&](int64_t token, T* sums) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t r = token * heads + h;
        const T *d = dout_rows.at<T>(r), scale = D.data<T>()[h];
        T* __restrict to = dx.data<T>() + r * width;
        for (int64_t p = 0; p < width; ++p) to[p] = scale * d[p];
        sums[h] += dot(width, d, x_rows.at<T>(r));
      }
    });
  });
}

}  // namespace spanwise::cpu
