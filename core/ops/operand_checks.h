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

}  // namespace spanwise
