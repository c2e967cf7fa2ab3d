#pragma once
// Sizes of the tables by which the optimizer's kernels on a GPU find their elements: a row a block of
// threads. No CUDA types: dry runs ask, too.

#include <cstdint>

namespace spanwise::cuda {

inline constexpr int64_t kAdamWBlockElems = 16384, kAdamWBlockBytes = 64;
inline constexpr int64_t kNormBlockElems = 65536, kNormBlockBytes = 16;

}  // namespace spanwise::cuda
