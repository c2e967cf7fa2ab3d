#include "core/ops/span_fold.h"

#include <cmath>

#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

void multiply_heads(const Context& ctx, const Tensor& a, HeadOperand op, const Tensor& b, const Tensor& added,
                    const Tensor& out) {
  if (added.defined()) out.copy_from(added);
  const int64_t n = out.dim(1), columns = out.dim(2), inner = b.dim(1);
  dispatch_float(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_for(ctx, out.dim(0), [&](int64_t h) {
      gemm<T>(op == HeadOperand::kPlain ? Trans::kNo : Trans::kYes, Trans::kNo, n, columns, inner, T(1),
              a.data<T>() + h * n * inner, a.dim(2), b.data<T>() + h * inner * columns, columns,
              added.defined() ? T(1) : T(0), out.data<T>() + h * n * columns, columns);
    });
  });
}

void decay_heads(const Context& ctx, const Tensor& log_decay, const Tensor& state, const Tensor& added,
                 const Tensor& out) {
  const int64_t num_decays = log_decay.defined() ? log_decay.numel() : out.dim(0);
  if (num_decays == 0) return;
  const int64_t elems = out.numel() / num_decays;
  dispatch_float(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_for(ctx, num_decays, [&](int64_t d) {
      const T decay = log_decay.defined() ? std::exp(log_decay.data<T>()[d]) : T(1);
      const T *s = state.data<T>() + d * elems, *b = added.data<T>() + d * elems;
      T* o = out.data<T>() + d * elems;
#pragma omp simd
      for (int64_t i = 0; i < elems; ++i) o[i] = decay * s[i] + b[i];
    });
  });
}

}  // namespace spanwise::cpu
