#include "core/ops/convert.h"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;

template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const From* __restrict__ from, To* __restrict__ to, int64_t numel) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < numel; i += stride)
    to[i] = from_float<To>(to_float(from[i]));
}

}  // namespace

void convert(const Context& ctx, const Tensor& from, const Tensor& to) {
  const int64_t numel = from.numel();
  if (numel == 0) return;
  const unsigned blocks = unsigned(std::min<int64_t>(ceil_div(numel, kThreads), 132 * 32));
  if (to.dtype() == DType::kBF16) {
    convert_kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(pointer<float>(from), pointer<__nv_bfloat16>(to),
                                                            numel);
  } else {
    convert_kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(pointer<__nv_bfloat16>(from), pointer<float>(to),
                                                            numel);
  }
  check_launch("convert");
}

}  // namespace spanwise::cuda
