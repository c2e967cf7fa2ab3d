#include "core/ops/scalars.h"

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

namespace {

template <class T>
__global__ void copy_scalar_kernel(const T* from, double* to) {
  *to = double(*from);
}

}  // namespace

void copy_scalar(const Context& ctx, const Tensor& from, const Tensor& to) {
  dispatch_float(from.dtype(), [&](auto zero) {
    using T = decltype(zero);
    copy_scalar_kernel<<<1, 1, 0, stream_of(ctx)>>>(from.data<T>(), to.data<double>());
  });
  check_launch("copy_scalar");
}

}  // namespace spanwise::cuda
