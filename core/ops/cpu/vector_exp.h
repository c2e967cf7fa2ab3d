#pragma once
// exp() without branches or calls, so that the compiler vectorises the loop around it.
//
//   exp(x) = 2^k · e^r,   k = round(x / ln 2),   r = x − k ln 2 in ±0.347,   e^r by its Taylor series
//
// ln 2 is split in two, the first part short enough that its product with k is exact. 2^k is applied as two
// factors, each a normal number, so that results reach the subnormals, 0 and infinity by ordinary rounding.
// float: within 2 ulp of the true value; double: relative error below 1e-14 (both for normal results).
// exp(−inf) = 0, exp(+inf) = +inf, NaN stays NaN.

#include <bit>
#include <cstddef>
#include <cstdint>

namespace spanwise::cpu {

namespace detail {

template <class T>
struct ExpTraits;

template <>
struct ExpTraits<float> {
  using Bits = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr Bits kExponentBias = 127;
  // Adding 1.5·2^23 rounds to an integer and leaves it in the low bits of the sum.
  static constexpr float kRound = 0x1.8p23f;
  static constexpr float kLn2High = 0x1.63p-1f, kLn2Low = -0x1.bd0106p-13f;
  // Beyond these the result is 0 or infinity; the clamp keeps k within what two factors can hold.
  static constexpr float kLowest = -105.0f, kHighest = 89.0f;
  static constexpr size_t kTerms = 8;
};

template <>
struct ExpTraits<double> {
  using Bits = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr Bits kExponentBias = 1023;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kLowest = -746.0, kHighest = 710.0;
  static constexpr size_t kTerms = 14;
};

/// Σ_n Series::coefficient(n) x^n for n < kTerms, unrolled by recursion: a loop here would hide the caller's
/// loop from the vectoriser.
template <class Series, size_t kTerms, class T, size_t n = 0>
[[gnu::always_inline]] inline T horner(T x) {
  constexpr T c = T(Series::coefficient(n));
  if constexpr (n + 1 < kTerms) {
    return horner<Series, kTerms, T, n + 1>(x) * x + c;
  } else {
    return c;
  }
}

struct ExpSeries {
  static constexpr double coefficient(size_t n) { return n < 2 ? 1.0 : coefficient(n - 1) / double(n); }
};

/// 2^k from k + kRound, for k in the range of normal numbers' exponents.
template <class T>
[[gnu::always_inline]] inline T power_of_two(T rounded) {
  using E = ExpTraits<T>;
  const auto bits = std::bit_cast<typename E::Bits>(rounded);
  return std::bit_cast<T>((bits + E::kExponentBias) << E::kMantissaBits);
}

}  // namespace detail

/// e^x. T is float or double.
template <class T>
[[gnu::always_inline]] inline T vector_exp(T x) {
  using E = detail::ExpTraits<T>;
  x = x < E::kLowest ? E::kLowest : x;
  x = x > E::kHighest ? E::kHighest : x;
  const T k = (x * T(1.4426950408889634) + E::kRound) - E::kRound;
  const T r = (x - k * E::kLn2High) - k * E::kLn2Low;
  const T e_r = detail::horner<detail::ExpSeries, E::kTerms>(r);
  const T half = k * T(0.5) + E::kRound;
  const T rest = (k - (half - E::kRound)) + E::kRound;
  return e_r * detail::power_of_two(half) * detail::power_of_two(rest);
}

}  // namespace spanwise::cpu
