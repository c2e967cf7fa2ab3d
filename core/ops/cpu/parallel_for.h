#pragma once
// The one way CPU kernels use threads: a static split of [0, n), so that results do not depend on timing.

#include <omp.h>

#include <cstdint>
#include <exception>

#include "core/context.h"

namespace spanwise::cpu {

/// fn(i) for i in [0, n), on the context's threads. fn must not write what another index writes. Calls to
/// gemm() inside run single-threaded (OpenBLAS's OpenMP build sees the parallel region).
template <class F>
void parallel_for(const Context& ctx, int64_t n, F&& fn) {
  if (n <= 1 || ctx.num_threads() == 1) {
    for (int64_t i = 0; i < n; ++i) fn(i);
    return;
  }
  std::exception_ptr error;
#pragma omp parallel for schedule(static) num_threads(ctx.num_threads())
  for (int64_t i = 0; i < n; ++i) {
    try {
      fn(i);
    } catch (...) {
#pragma omp critical
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

/// fn(begin, end) over blocks of at most `grain` of [0, n): for loops whose body is too small to call per
/// index.
template <class F>
void parallel_blocks(const Context& ctx, int64_t n, int64_t grain, F&& fn) {
  const int64_t blocks = (n + grain - 1) / grain;
  parallel_for(ctx, blocks, [&](int64_t b) { fn(b * grain, n < (b + 1) * grain ? n : (b + 1) * grain); });
}

}  // namespace spanwise::cpu
