#pragma once
// Several consecutive elements in one register group: what memory-bound kernels load, keep packed until they
// are used, and store. kWidth is 16 bytes' worth on the fast path and 1 where rows are not aligned.

#include "core/ops/cuda/common/vector.cuh"

namespace spanwise::cuda {

namespace detail {
template <int kBytes>
struct RawPack;
template <>
struct RawPack<2> {
  using type = uint16_t;
};
template <>
struct RawPack<4> {
  using type = uint32_t;
};
template <>
struct RawPack<8> {
  using type = uint2;
};
template <>
struct RawPack<16> {
  using type = uint4;
};
struct alignas(16) TwoVectors {
  uint4 first, second;
};
template <>
struct RawPack<32> {
  using type = TwoVectors;
};
}  // namespace detail

template <class T, int kWidth>
struct Pack {
  using Raw = typename detail::RawPack<int(sizeof(T)) * kWidth>::type;
  Raw raw;

  static __device__ __forceinline__ Pack zero() {
    Pack p;
    p.raw = Raw{};
    return p;
  }
  /// `from` is aligned to the pack's size, at most 16 bytes.
  static __device__ __forceinline__ Pack load(const T* from) {
    Pack p;
    p.raw = *reinterpret_cast<const Raw*>(from);
    return p;
  }
  __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Raw*>(to) = raw; }

  __device__ __forceinline__ float get(int i) const { return to_float(reinterpret_cast<const T*>(&raw)[i]); }
  __device__ __forceinline__ void unpack(float (&x)[kWidth]) const {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i] = get(i);
  }
  static __device__ __forceinline__ Pack from(const float (&x)[kWidth]) {
    Pack p;
    T* values = reinterpret_cast<T*>(&p.raw);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = from_float<T>(x[i]);
    return p;
  }
};

}  // namespace spanwise::cuda
