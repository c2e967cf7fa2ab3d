#include "core/ops/accumulate.h"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;

// Vectors of kVector<From> elements, then the rest one by one. `vectors` is 0 where a pointer is not aligned.
template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(To* __restrict__ to, const From* __restrict__ from, int64_t vectors, int64_t numel) {
  constexpr int kWidth = kVector<From>, kPieces = kWidth / kVector<To>;
  const int64_t stride = int64_t(gridDim.x) * kThreads, first = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t v = first; v < vectors; v += stride) {
    float add[kWidth];
    load_vector(from + v * kWidth, add);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      float sum[kVector<To>];
      To* at = to + v * kWidth + piece * kVector<To>;
      load_vector(at, sum);
#pragma unroll
      for (int i = 0; i < kVector<To>; ++i) sum[i] += add[piece * kVector<To> + i];
      store_vector(at, sum);
    }
  }
  for (int64_t i = vectors * kWidth + first; i < numel; i += stride)
    to[i] = from_float<To>(to_float(to[i]) + to_float(from[i]));
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0;
}

}  // namespace

void accumulate(const Context& ctx, const Tensor& to, const Tensor& from) {
  if (to.numel() == 0) return;
  dispatch_cuda(to.dtype(), [&](auto to_zero) {
    dispatch_cuda(from.dtype(), [&](auto from_zero) {
      using To = decltype(to_zero);
      using From = decltype(from_zero);
      if constexpr (sizeof(From) <= sizeof(To)) {
        const int64_t vectors = aligned(to) && aligned(from) ? to.numel() / kVector<From> : 0;
        const int64_t work = std::max<int64_t>(vectors, vectors == 0 ? to.numel() : 1);
        const unsigned blocks = unsigned(std::min<int64_t>(ceil_div(work, kThreads), 132 * 16));
        accumulate_kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(pointer<To>(to), pointer<From>(from),
                                                                   vectors, to.numel());
      }
    });
  });
  check_launch("accumulate");
}

}  // namespace spanwise::cuda
