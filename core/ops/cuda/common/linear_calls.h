#pragma once
// The products of linear and linear_cross_entropy as the GPU computes them; dry runs make the same ones.

#include "core/ops/cuda/common/gemm.h"

namespace spanwise::cuda {

/// y = x Wᵀ (+ bias, of y's dtype or undefined)
inline GemmCall linear_fwd_call(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  const int64_t outputs = weight.dim(0), inputs = weight.dim(1);
  return {.m = y.numel() / outputs,
          .n = outputs,
          .k = inputs,
          .dtype = x.dtype(),
          .a = {x.raw(), x.row_stride(inputs), false},
          .b = {weight.raw(), inputs, true},
          .c = y.raw(),
          .c_stride = outputs,
          .c_dtype = y.dtype(),
          .bias = bias.defined() ? bias.raw() : nullptr};
}

/// dx = dy W
inline GemmCall linear_bwd_x_call(const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  const int64_t outputs = weight.dim(0), inputs = weight.dim(1);
  return {.m = dy.numel() / outputs,
          .n = inputs,
          .k = outputs,
          .dtype = dy.dtype(),
          .a = {dy.raw(), dy.row_stride(outputs), false},
          .b = {weight.raw(), inputs, false},
          .c = dx.raw(),
          .c_stride = inputs,
          .c_dtype = dx.dtype(),
          .accumulate = accumulate};
}

/// dW = dyᵀ x
inline GemmCall linear_bwd_weight_call(const Tensor& dy, const Tensor& x, const Tensor& dweight,
                                       bool accumulate) {
  const int64_t outputs = dweight.dim(0), inputs = dweight.dim(1);
  return {.m = outputs,
          .n = inputs,
          .k = dy.numel() / outputs,
          .dtype = dy.dtype(),
          .a = {dy.raw(), dy.row_stride(outputs), true},
          .b = {x.raw(), x.row_stride(inputs), false},
          .c = dweight.raw(),
          .c_stride = inputs,
          .c_dtype = dweight.dtype(),
          .accumulate = accumulate};
}

/// Rows [begin, begin + rows) of linear_cross_entropy: logits = x Wᵀ, then dx = dlogits W, dW += dlogitsᵀ x.
/// Rows of `logits` lie `stride` elements apart.
struct CrossEntropyChunk {
  const Tensor &x, &weight, &logits;
  int64_t begin, rows;

  GemmCall logits_call() const {
    return {.m = rows,
            .n = weight.dim(0),
            .k = weight.dim(1),
            .dtype = x.dtype(),
            .a = rows_of_x(),
            .b = {weight.raw(), weight.dim(1), true},
            .c = logits.raw(),
            .c_stride = logits.dim(1),
            .c_dtype = x.dtype()};
  }
  GemmCall dx_call(const Tensor& dx) const {
    return {.m = rows,
            .n = weight.dim(1),
            .k = weight.dim(0),
            .dtype = x.dtype(),
            .a = {logits.raw(), logits.dim(1), false},
            .b = {weight.raw(), weight.dim(1), false},
            .c = static_cast<char*>(dx.raw()) + begin * weight.dim(1) * int64_t(size_of(x.dtype())),
            .c_stride = weight.dim(1),
            .c_dtype = x.dtype()};
  }
  GemmCall dweight_call(const Tensor& dweight) const {
    return {.m = weight.dim(0),
            .n = weight.dim(1),
            .k = rows,
            .dtype = x.dtype(),
            .a = {logits.raw(), logits.dim(1), true},
            .b = rows_of_x(),
            .c = dweight.raw(),
            .c_stride = weight.dim(1),
            .c_dtype = dweight.dtype(),
            .accumulate = begin > 0};
  }

 private:
  GemmOperand rows_of_x() const {
    const int64_t stride = x.row_stride(weight.dim(1));
    return {static_cast<char*>(x.raw()) + begin * stride * int64_t(size_of(x.dtype())), stride, false};
  }
};

/// Elements of a row of logits in memory: rows start at 16-byte boundaries whatever the vocabulary, for the
/// kernels and the products.
constexpr int64_t logits_stride(int64_t vocab) {
  constexpr int64_t kAlignElems = 64;
  return (vocab + kAlignElems - 1) / kAlignElems * kAlignElems;
}

/// Rows of dy whose sum one block of linear_bwd_bias takes.
inline constexpr int64_t kBiasRowsPerBlock = 256;

}  // namespace spanwise::cuda
