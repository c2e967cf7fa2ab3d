#pragma once
// The loops of a softmax over one row, written so that the compiler vectorises them.

#include <cstdint>
#include <limits>

#include "core/ops/cpu/vector_exp.h"

namespace spanwise::cpu {

/// −∞ for n = 0.
template <class T>
T max_of(const T* x, int64_t n) {
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/// x[i] ← exp(x[i] − shift), with x[i] ≤ shift; returns the sum. Below e^−80 of the largest term the result
/// is zero: no sum notices, and a product with a subnormal would take a hundred times longer.
template <class T>
T exp_shifted(T* x, int64_t n, T shift) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const T e = x[i] - shift < T(-80) ? T(0) : vector_exp(x[i] - shift);
    x[i] = e;
    sum += e;
  }
  return sum;
}

}  // namespace spanwise::cpu
