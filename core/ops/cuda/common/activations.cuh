#pragma once
// Scalar activations and their derivatives. Finite for every finite input.

#include "core/ops/pointwise.h"

namespace spanwise::cuda {

/// 2^x and 1 / x to about two units in the last place, one instruction each; subnormal results are 0.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// e^−x overflows to infinity below −88, whose reciprocal is the right 0.
__device__ __forceinline__ float sigmoid(float x) {
  return fast_reciprocal(1.0f + fast_exp2(-1.4426950408889634f * x));
}

__device__ __forceinline__ float softplus(float x) {
  return fmaxf(x, 0.0f) + log1pf(__expf(-fabsf(x)));
}

struct SiluValue {
  float value, derivative;
};
/// xσ and σ + xσ (1 − σ).
__device__ __forceinline__ SiluValue silu_value(float x) {
  const float s = sigmoid(x), y = x * s;
  return {y, fmaf(y, 1.0f - s, s)};
}

template <Activation kKind>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kKind == Activation::kSiLU) return x * sigmoid(x);
  if constexpr (kKind == Activation::kSigmoid) return sigmoid(x);
  if constexpr (kKind == Activation::kReLU) return fmaxf(x, 0.0f);
  if constexpr (kKind == Activation::kEluPlusOne) return x > 0.0f ? x + 1.0f : __expf(x);
  return x;
}

template <Activation kKind>
__device__ __forceinline__ float activation_derivative(float x) {
  if constexpr (kKind == Activation::kSiLU) return silu_value(x).derivative;
  if constexpr (kKind == Activation::kSigmoid) {
    const float s = sigmoid(x);
    return s * (1.0f - s);
  }
  if constexpr (kKind == Activation::kReLU) return x > 0.0f ? 1.0f : 0.0f;
  if constexpr (kKind == Activation::kEluPlusOne) return x > 0.0f ? 1.0f : __expf(x);
  return 1.0f;
}

}  // namespace spanwise::cuda
