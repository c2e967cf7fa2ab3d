#include "core/ops/pointwise.h"

#include "core/ops/activation_dispatch.h"
#include "core/ops/cpu/activations.h"
#include "core/ops/cpu/elementwise.h"

namespace spanwise::cpu {

namespace {

// out[i] = fn(a[i], b[i]); b may be a itself.
template <class F>
void binary(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out, F fn) {
  const int64_t width = common_row_width({&a, &b, &out});
  const Rows a_rows(a, width), b_rows(b, width), out_rows(out, width);
  dispatch_float(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_elements(ctx, a.numel(), width, [&](int64_t row, int64_t begin, int64_t count) {
      const T *x = a_rows.at<T>(row) + begin, *y = b_rows.at<T>(row) + begin;
      T* __restrict to = out_rows.at<T>(row) + begin;
      for (int64_t i = 0; i < count; ++i) to[i] = fn(x[i], y[i]);
    });
  });
}

}  // namespace

void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  binary(ctx, a, b, out, [](auto x, auto y) { return x + y; });
}

void multiply(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  binary(ctx, a, b, out, [](auto x, auto y) { return x * y; });
}

void activation_fwd(const Context& ctx, const Tensor& x, Activation kind, const Tensor& y) {
  dispatch_activation(kind, [&](auto k) {
    binary(ctx, x, x, y, [](auto v, auto) { return activate<decltype(k)::value>(v); });
  });
}

void activation_bwd(const Context& ctx, const Tensor& dy, const Tensor& x, Activation kind,
                    const Tensor& dx) {
  dispatch_activation(kind, [&](auto k) {
    binary(ctx, dy, x, dx, [](auto d, auto v) { return d * activation_derivative<decltype(k)::value>(v); });
  });
}

}  // namespace spanwise::cpu
