#include "core/ops/convert.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

void convert(const Context& ctx, const Tensor& from, const Tensor& to) {
  constexpr int64_t kElemsPerBlock = 1 << 14;
  dispatch_storage(from.dtype(), [&](auto from_zero) {
    dispatch_storage(to.dtype(), [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      const From* source = from.data<From>();
      To* target = to.data<To>();
      parallel_blocks(ctx, from.numel(), kElemsPerBlock, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) target[i] = To(source[i]);
      });
    });
  });
}

}  // namespace spanwise::cpu
