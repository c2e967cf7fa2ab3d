#pragma once
// What the tests of CUDA ops run in: activations' dtype and the bounds that go with it.

#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {

struct CudaPrecision {
  DType dtype;
  CudaBounds bounds;
};
constexpr CudaPrecision kCudaPrecisions[] = {{DType::kBF16, kBoundsBF16}, {DType::kF32, kBoundsF32}};

inline Tensor normal64(const Shape& shape, const std::string& name, double scale = 1.0, double shift = 0.0) {
  return random_tensor(shape, DType::kF64, name, scale, shift);
}

/// An activation: gradients are asked for; `column_block` as in CudaOperand.
inline CudaOperand activation_operand(const Tensor& value, const CudaPrecision& p, int64_t column_block = 0,
                                      int block_dims = 1) {
  return {value, p.dtype, p.bounds.gradient, column_block, block_dims};
}
/// A vector parameter.
inline CudaOperand vector_operand(const Tensor& value, const CudaPrecision& p) {
  return {value, DType::kF32, p.bounds.gradient};
}

}  // namespace spanwise::testing
