#include "core/ops/accumulate.h"

#include "core/dispatch.h"

namespace spanwise {

namespace work {
constexpr Moves accumulate;
}
namespace dry {
constexpr NoTemporaries accumulate;
}

void accumulate(Context& ctx, const Tensor& to, const Tensor& from) {
  SPANWISE_CHECK(to.numel() == from.numel() && to.contiguous() && from.contiguous(),
                 "cannot add a gradient of shape {} to one of {}", from.shape().str(), to.shape().str());
  SPANWISE_CHECK(from.dtype() == to.dtype() || from.dtype() == DType::kBF16,
                 "cannot add a gradient of {} to one of {}", name_of(from.dtype()), name_of(to.dtype()));
  SPANWISE_DISPATCH(ctx, accumulate, ctx, to, from);
}

}  // namespace spanwise
