#include <algorithm>
#include <cmath>

#include "core/ops/cpu/parallel_for.h"
#include "core/ops/softmax_attention.h"

namespace spanwise::cpu {

void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges& ranges) {
  const int64_t heads = total.out.dim(2), width = total.out.dim(3);
  dispatch_float(total.out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T *out = total.out.data<T>(), *lse = total.log_sum_exp.data<T>();
    const T *added = part.out.data<T>(), *added_lse = part.log_sum_exp.data<T>();
    parallel_for(ctx, total.out.dim(0) * total.out.dim(1), [&](int64_t query) {
      if (ranges.begin[query] == ranges.end[query]) return;
      for (int64_t at = query * heads; at < (query + 1) * heads; ++at) {
        const T largest = std::max(lse[at], added_lse[at]);
        const T merged = largest + std::log(std::exp(lse[at] - largest) + std::exp(added_lse[at] - largest));
        const T mine = std::exp(lse[at] - merged), other = std::exp(added_lse[at] - merged);
        for (int64_t c = at * width; c < (at + 1) * width; ++c) out[c] = mine * out[c] + other * added[c];
        lse[at] = merged;
      }
    });
  });
}

}  // namespace spanwise::cpu
