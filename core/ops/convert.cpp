#include "core/ops/convert.h"

#include "core/dispatch.h"

namespace spanwise {

namespace work {
constexpr Moves convert;
}
namespace dry {
constexpr NoTemporaries convert;
}

void convert(Context& ctx, const Tensor& from, const Tensor& to) {
  SPANWISE_CHECK(from.numel() == to.numel() && from.contiguous() && to.contiguous(),
                 "cannot convert a tensor of shape {} to one of {}", from.shape().str(), to.shape().str());
  if (from.dtype() == to.dtype()) return to.copy_from(from);
  SPANWISE_CHECK((from.dtype() == DType::kF32 && to.dtype() == DType::kBF16) ||
                     (from.dtype() == DType::kBF16 && to.dtype() == DType::kF32),
                 "{} is not converted to {} (F32 and BF16 are, either way)", name_of(from.dtype()),
                 name_of(to.dtype()));
  SPANWISE_DISPATCH(ctx, convert, ctx, from, to);
}

Tensor converted(Context& ctx, const Tensor& t, DType dtype) {
  if (t.dtype() == dtype) return t;
  const Tensor result = Tensor::empty(ctx, t.shape(), dtype);
  convert(ctx, t, result);
  return result;
}

}  // namespace spanwise
