#pragma once
// The loops of a softmax over one row, written so that the compiler vectorises them.

#include <cmath>
#include <cstdint>
#include <limits>

namespace spanwise::cpu {

/// −∞ for n = 0.
template <class T>
T max_of(const T* x, int64_t n) {
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/// x[i] ← exp(x[i] − shift), with x[i] ≤ shift; returns the sum.
template <class T>
T exp_shifted(T* x, int64_t n, T shift) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::exp(x[i] - shift);
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

}  // namespace spanwise::cpu
