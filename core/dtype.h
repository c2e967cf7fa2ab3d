#pragma once
// Element types. The CPU computes in F32 and F64, a GPU in F32 and BF16.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/check.h"

namespace spanwise {

enum class DType : uint8_t { kF64, kF32, kBF16, kI64, kI32, kU8 };

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

/// What sums, statistics, gates, recurrent states and vector parameters are kept in where activations and
/// matrices have this dtype.
constexpr DType accumulation_dtype(DType dtype) {
  return dtype == DType::kBF16 ? DType::kF32 : dtype;
}

/// One sign, eight exponent and seven mantissa bits: the upper half of a float. The host only stores and
/// converts it.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  /// Round to nearest, ties to even; NaN stays NaN.
  explicit constexpr BFloat16(float value) {
    const uint32_t raw = std::bit_cast<uint32_t>(value);
    const bool nan = (raw & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? uint16_t(raw >> 16 | 0x40u) : uint16_t((raw + 0x7fffu + (raw >> 16 & 1u)) >> 16);
  }
  explicit constexpr BFloat16(double value) : BFloat16(float(value)) {}
  constexpr operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kU8:
      return "U8";
  }
  return "?";
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<double>() {
  return DType::kF64;
}
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::kBF16;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kI64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kU8;
}

/// Calls fn(T{}) with T = float or double: `dispatch_float(x.dtype(), [&](auto zero) { using T =
/// decltype(zero); … })`.
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& fn) {
  SPANWISE_CHECK(dtype == DType::kF32 || dtype == DType::kF64,
                 "dtype {} is not supported on the CPU (F32, F64 are)", name_of(dtype));
  return dtype == DType::kF32 ? fn(float{}) : fn(double{});
}

/// The same for host code that only converts: BFloat16 too.
template <class F>
decltype(auto) dispatch_storage(DType dtype, F&& fn) {
  if (dtype == DType::kBF16) return fn(BFloat16{});
  return dispatch_float(dtype, std::forward<F>(fn));
}

}  // namespace spanwise
