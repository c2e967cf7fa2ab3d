#include "core/ops/linear.h"

#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

namespace {
constexpr int64_t kRowsPerBlock = 32;
}  // namespace

void linear_fwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  const int64_t outputs = weight.dim(0), inputs = weight.dim(1), rows = y.numel() / outputs;
  dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (bias.defined()) {
      parallel_blocks(ctx, rows, kRowsPerBlock, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) std::copy_n(bias.data<T>(), outputs, y.data<T>() + r * outputs);
      });
    }
    gemm<T>(Trans::kNo, Trans::kYes, rows, outputs, inputs, T(1), x.data<T>(), x.row_stride(inputs),
            weight.data<T>(), inputs, bias.defined() ? T(1) : T(0), y.data<T>(), outputs);
  });
}

void linear_bwd_x(Context&, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  const int64_t outputs = weight.dim(0), inputs = weight.dim(1), rows = dy.numel() / outputs;
  dispatch_float(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    gemm<T>(Trans::kNo, Trans::kNo, rows, inputs, outputs, T(1), dy.data<T>(), outputs, weight.data<T>(),
            inputs, T(accumulate), dx.data<T>(), inputs);
  });
}

void linear_bwd_weight(Context&, const Tensor& dy, const Tensor& x, const Tensor& dweight, bool accumulate) {
  const int64_t outputs = dweight.dim(0), inputs = dweight.dim(1), rows = dy.numel() / outputs;
  dispatch_float(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    gemm<T>(Trans::kYes, Trans::kNo, outputs, inputs, rows, T(1), dy.data<T>(), outputs, x.data<T>(),
            x.row_stride(inputs), T(accumulate), dweight.data<T>(), inputs);
  });
}

void linear_bwd_bias(Context& ctx, const Tensor& dy, const Tensor& dbias) {
  const int64_t outputs = dbias.numel();
  dispatch_float(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    column_sums<T>(ctx, dy.numel() / outputs, outputs, dbias.data<T>(), [&](int64_t row, T* sums) {
      const T* g = dy.data<T>() + row * outputs;
      for (int64_t i = 0; i < outputs; ++i) sums[i] += g[i];
    });
  });
}

}  // namespace spanwise::cpu
