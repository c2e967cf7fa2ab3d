#include "core/ops/accumulate.h"

namespace spanwise::cpu {

void accumulate(const Context& ctx, const Tensor& to, const Tensor& from) {
  dispatch_float(to.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* d = to.data<T>();
    const T* s = from.data<T>();
    const int64_t n = to.numel();
#pragma omp parallel for simd schedule(static) num_threads(ctx.num_threads()) if (n > 1 << 16)
    for (int64_t i = 0; i < n; ++i) d[i] += s[i];
  });
}

}  // namespace spanwise::cpu
