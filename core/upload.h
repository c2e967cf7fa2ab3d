#pragma once
// Host arrays that kernels read: segments, key ranges, tokens, labels.

#include <type_traits>
#include <vector>

#include "core/tensor.h"

namespace spanwise {

/// The bytes of `values` on ctx's device, [values.size() · sizeof(T)] of U8; nothing waits. `values` may
/// change afterwards.
template <class T>
Tensor upload(Context& ctx, const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  const int64_t bytes = int64_t(values.size() * sizeof(T));
  Tensor t = Tensor::empty(ctx, {bytes}, DType::kU8);
  t.copy_from_host(values.data(), size_t(bytes));
  return t;
}

}  // namespace spanwise
