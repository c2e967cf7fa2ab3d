#include "core/ops/block_copy.h"

#include <cstring>

namespace spanwise::cpu {

void copy_blocks(const Context&, const Tensor& source, const Tensor& target,
                 const std::vector<MovedBlock>& blocks) {
  const int64_t size = int64_t(size_of(source.dtype()));
  const char* from = static_cast<const char*>(source.raw());
  char* to = static_cast<char*>(target.raw());
  for (const MovedBlock& b : blocks) {
    for (int64_t i = 0; i < b.rows; ++i) {
      std::memcpy(to + (b.to + i * b.to_stride) * size, from + (b.from + i * b.from_stride) * size,
                  size_t(b.width * size));
    }
  }
}

void add_blocks(const Context&, const Tensor& source, const Tensor& target,
                const std::vector<MovedBlock>& blocks) {
  dispatch_storage(source.dtype(), [&](auto from_zero) {
    dispatch_storage(target.dtype(), [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      for (const MovedBlock& b : blocks) {
        for (int64_t i = 0; i < b.rows; ++i) {
          const From* from = source.data<From>() + b.from + i * b.from_stride;
          To* to = target.data<To>() + b.to + i * b.to_stride;
#pragma omp simd
          for (int64_t c = 0; c < b.width; ++c) to[c] = To(to[c] + from[c]);
        }
      }
    });
  });
}

}  // namespace spanwise::cpu
