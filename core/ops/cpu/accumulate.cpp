#include "core/ops/accumulate.h"

namespace spanwise::cpu {

void accumulate(const Context& ctx, const Tensor& to, const Tensor& from) {
  dispatch_storage(to.dtype(), [&](auto to_zero) {
    dispatch_storage(from.dtype(), [&](auto from_zero) {
      using To = decltype(to_zero);
      using From = decltype(from_zero);
      To* d = to.data<To>();
      const From* s = from.data<From>();
      const int64_t n = to.numel();
#pragma omp parallel for simd schedule(static) num_threads(ctx.num_threads()) if (n > 1 << 16)
      for (int64_t i = 0; i < n; ++i) d[i] = To(d[i] + s[i]);
    });
  });
}

}  // namespace spanwise::cpu
