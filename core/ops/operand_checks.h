#pragma once
// The checks that ops share; each error names the op and the operands.

#include <string_view>

#include "core/tensor.h"

namespace spanwise {

/// b must have a's shape and dtype.
inline void check_equal_shapes(std::string_view op, std::string_view a_name, const Tensor& a,
                               std::string_view b_name, const Tensor& b) {
  SPANWISE_CHECK(a.shape() == b.shape() && a.dtype() == b.dtype(),
                 "{}: {} {} {} and {} {} {} must have equal shape and dtype", op, a_name, name_of(a.dtype()),
                 a.shape().str(), b_name, name_of(b.dtype()), b.shape().str());
}

/// A parameter or state: contiguous, of exactly this shape and dtype.
inline void check_operand(std::string_view op, std::string_view name, const Tensor& t, const Shape& shape,
                          DType dtype) {
  SPANWISE_CHECK(t.shape() == shape && t.dtype() == dtype && t.contiguous(),
                 "{}: {} must be a contiguous {} {}, got {} {}", op, name, name_of(dtype), shape.str(),
                 name_of(t.dtype()), t.shape().str());
}

/// A norm's weight: [D] over x's last dimension, or as many elements as a product of trailing dimensions (one
/// weight per group), or undefined (ones); of x's accumulation_dtype.
inline void check_norm_weight(std::string_view op, const Tensor& x, const Tensor& weight) {
  if (!weight.defined()) return;
  int64_t trailing = 1;
  for (int i = x.num_dims() - 1; i >= 0; --i) {
    trailing *= x.dim(i);
    if (trailing == weight.numel() && weight.dtype() == accumulation_dtype(x.dtype())) return;
  }
  SPANWISE_FAIL("{}: a {} weight of {} elements does not cover trailing dimensions of x {} {}", op,
                name_of(weight.dtype()), weight.numel(), name_of(x.dtype()), x.shape().str());
}

}  // namespace spanwise
