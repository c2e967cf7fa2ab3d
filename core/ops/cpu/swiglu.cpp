#include "core/ops/swiglu.h"

#include "core/ops/cpu/activations.h"
#include "core/ops/cpu/elementwise.h"

namespace spanwise::cpu {

void swiglu_fwd(const Context& ctx, const Tensor& gate, const Tensor& up, const Tensor& y) {
  const int64_t width = common_row_width({&gate, &up});
  const Rows gate_rows(gate, width), up_rows(up, width);
  dispatch_float(gate.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_elements(ctx, gate.numel(), width, [&](int64_t row, int64_t begin, int64_t count) {
      const T *g = gate_rows.at<T>(row) + begin, *u = up_rows.at<T>(row) + begin;
      T* __restrict to = y.data<T>() + row * width + begin;
      for (int64_t i = 0; i < count; ++i) to[i] = activate<Activation::kSiLU>(g[i]) * u[i];
    });
  });
}

void swiglu_bwd(const Context& ctx, const Tensor& dy, const Tensor& gate, const Tensor& up,
                const Tensor& dgate, const Tensor& dup) {
  const int64_t width = common_row_width({&dy, &gate, &up});
  const Rows dy_rows(dy, width), gate_rows(gate, width), up_rows(up, width);
  dispatch_float(gate.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_elements(ctx, gate.numel(), width, [&](int64_t row, int64_t begin, int64_t count) {
      const T *g = gate_rows.at<T>(row) + begin, *u = up_rows.at<T>(row) + begin,
              *d = dy_rows.at<T>(row) + begin;
      T* __restrict dg = dgate.data<T>() + row * width + begin;
      T* __restrict du = dup.data<T>() + row * width + begin;
      for (int64_t i = 0; i < count; ++i) {
        dg[i] = d[i] * u[i] * activation_derivative<Activation::kSiLU>(g[i]);
        du[i] = d[i] * activate<Activation::kSiLU>(g[i]);
      }
    });
  });
}

}  // namespace spanwise::cpu
