#include "core/ops/scalars.h"

#include "core/dispatch.h"

namespace spanwise {

namespace work {
constexpr Moves copy_scalar;
}
namespace dry {
constexpr NoTemporaries copy_scalar;
}

std::vector<double> read_scalars(Context& ctx, const std::vector<Tensor>& scalars) {
  if (scalars.empty()) return {};
  const Tensor together = Tensor::empty(ctx, {int64_t(scalars.size())}, DType::kF64);
  for (size_t i = 0; i < scalars.size(); ++i) {
    SPANWISE_CHECK(scalars[i].numel() == 1, "a tensor of shape {} is not one number",
                   scalars[i].shape().str());
    SPANWISE_DISPATCH(ctx, copy_scalar, ctx, scalars[i], together.slice_flat(int64_t(i), {1}));
  }
  return together.to_vector<double>();
}

namespace cpu {

void copy_scalar(const Context&, const Tensor& from, const Tensor& to) {
  dispatch_float(from.dtype(), [&](auto zero) { *to.data<double>() = double(*from.data<decltype(zero)>()); });
}

}  // namespace cpu

}  // namespace spanwise
