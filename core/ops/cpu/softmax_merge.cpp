#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/ops/cpu/parallel_for.h"
#include "core/ops/softmax_attention.h"

namespace spanwise::cpu {

void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges& ranges) {
  const int64_t heads = total.out.dim(2), width = total.out.dim(3);
  dispatch_storage(part.out.dtype(), [&](auto part_zero) {
    dispatch_storage(total.out.dtype(), [&](auto total_zero) {
      using Part = decltype(part_zero);
      using Total = decltype(total_zero);
      using T = std::conditional_t<std::is_same_v<Total, double>, double, float>;
      Total* out = total.out.data<Total>();
      const Part* added = part.out.data<Part>();
      T* lse = total.log_sum_exp.data<T>();
      const T* added_lse = part.log_sum_exp.data<T>();
      parallel_for(ctx, total.out.dim(0) * total.out.dim(1), [&](int64_t query) {
        if (ranges.begin[query] == ranges.end[query]) return;
        for (int64_t at = query * heads; at < (query + 1) * heads; ++at) {
          const T largest = std::max(lse[at], added_lse[at]);
          const T merged =
              largest + std::log(std::exp(lse[at] - largest) + std::exp(added_lse[at] - largest));
          const T mine = std::exp(lse[at] - merged), other = std::exp(added_lse[at] - merged);
          for (int64_t c = at * width; c < (at + 1) * width; ++c)
            out[c] = Total(mine * T(out[c]) + other * T(added[c]));
          lse[at] = merged;
        }
      });
    });
  });
}

}  // namespace spanwise::cpu
