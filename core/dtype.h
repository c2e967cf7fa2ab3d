#pragma once
// Element types. The CPU computes in F32 and F64; BF16 is a storage type for the GPU path.

#include <cstddef>
#include <cstdint>

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

}  // namespace spanwise
