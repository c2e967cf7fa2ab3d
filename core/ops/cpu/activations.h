#pragma once
// Scalar activations and their derivatives, for use inside vectorised loops: no branches, no calls, no
// overflow (|x| up to the largest float gives finite or correctly infinite results, never NaN).

#include <cmath>
#include <type_traits>

#include "core/ops/cpu/vector_exp.h"
#include "core/ops/pointwise.h"

namespace spanwise::cpu {

template <class T>
[[gnu::always_inline]] inline T sigmoid(T x) {
  return T(1) / (T(1) + vector_exp(-x));
}

/// artanh(z) / z as a series in z².
struct ArtanhSeries {
  static constexpr double coefficient(size_t n) { return 1.0 / double(2 * n + 1); }
};

/// ln(1 + u) for u in [0, 1]: 2 artanh(z) with z = u / (2 + u) ≤ 1/3, whose series in z² converges fast.
template <class T>
[[gnu::always_inline]] inline T log1p_unit(T u) {
  constexpr size_t kTerms = std::is_same_v<T, float> ? 8 : 17;
  const T z = u / (T(2) + u);
  return T(2) * z * detail::horner<ArtanhSeries, kTerms>(z * z);
}

/// ln(1 + e^x); its derivative is sigmoid(x).
template <class T>
[[gnu::always_inline]] inline T softplus(T x) {
  return (x > T(0) ? x : T(0)) + log1p_unit(vector_exp(-std::abs(x)));
}

template <Activation kKind, class T>
[[gnu::always_inline]] inline T activate(T x) {
  if constexpr (kKind == Activation::kSiLU) return x * sigmoid(x);
  if constexpr (kKind == Activation::kSigmoid) return sigmoid(x);
  if constexpr (kKind == Activation::kReLU) return x > T(0) ? x : T(0);
  if constexpr (kKind == Activation::kEluPlusOne) {
    const T below = vector_exp(x);
    return x > T(0) ? x + T(1) : below;
  }
  return x;
}

template <Activation kKind, class T>
[[gnu::always_inline]] inline T activation_derivative(T x) {
  if constexpr (kKind == Activation::kSiLU) {
    const T s = sigmoid(x);
    return s * (T(1) + x * (T(1) - s));
  }
  if constexpr (kKind == Activation::kSigmoid) {
    const T s = sigmoid(x);
    return s * (T(1) - s);
  }
  if constexpr (kKind == Activation::kReLU) return x > T(0) ? T(1) : T(0);
  if constexpr (kKind == Activation::kEluPlusOne) {
    const T below = vector_exp(x);
    return x > T(0) ? T(1) : below;
  }
  return T(1);
}

}  // namespace spanwise::cpu
