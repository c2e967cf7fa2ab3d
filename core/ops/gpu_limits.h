#pragma once
// What the GPU's kernels take: read by their dispatch and, before any work and on any machine, by a config's
// checks (launcher/config/check_gpu.cpp). No CUDA types.

#include <cstdint>
#include <string>

#include "core/check.h"
#include "core/dtype.h"

namespace spanwise::gpu_limits {

/// Blocks along a grid's second and third axis: rows of attention, heads. What grows with the data itself
/// (documents, chunks, parts) lies along the first, which takes 2^31 − 1.
inline constexpr int64_t kMostGrid = 65535;

/// Tokens of a call: indices of kernels are of 32 bits.
inline constexpr int64_t kMostTokens = (int64_t{1} << 30) - 1;

/// Channels of a head: in BF16, of keys and of values, one of the widths that there are kernels for; in F32
/// any up to a bound.
struct HeadChannels {
  int64_t most_f32_keys, most_f32_values;

  constexpr bool takes(DType dtype, int64_t keys, int64_t values) const {
    if (dtype == DType::kBF16) return has_bf16_kernel(keys) && has_bf16_kernel(values);
    return keys <= most_f32_keys && values <= most_f32_values;
  }
  static constexpr bool has_bf16_kernel(int64_t width) { return width == 64 || width == 128 || width == 256; }
  /// "64, 128 or 256 in BF16".
  std::string taken(DType dtype) const {
    if (dtype == DType::kBF16) return "64, 128 or 256 in BF16";
    if (most_f32_keys == most_f32_values) return fmt::format("up to {} in F32", most_f32_keys);
    return fmt::format("up to {} for keys and {} for values in F32", most_f32_keys, most_f32_values);
  }
};
inline constexpr HeadChannels kAttentionHeads{256, 256};
/// Its backward scans with keys and values exchanged.
inline constexpr HeadChannels kScalarDecayHeads{1024, 1024};
/// A block has 32 columns of values; a head's norm has a row of them.
inline constexpr HeadChannels kGatedDeltaHeads{256, 4096};

/// Tokens of a chunk of the delta rule, in BF16.
inline constexpr int64_t kMostGatedDeltaChunk = 64;

/// Angles of a token (half of rope's rotary_dim).
inline constexpr int64_t kMostRopeAngles = 2048;

/// Elements of a row of a norm: in rows that lie on 16 bytes, and in others.
constexpr int64_t most_row_elems(DType dtype, bool aligned) {
  return aligned ? 2048 * 16 / int64_t(size_of(dtype)) : 4096;
}
/// A contiguous tensor's.
constexpr bool takes_rows(DType dtype, int64_t width) {
  return width <= most_row_elems(dtype, width * int64_t(size_of(dtype)) % 16 == 0);
}

}  // namespace spanwise::gpu_limits
