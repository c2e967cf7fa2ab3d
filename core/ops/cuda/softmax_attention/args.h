#pragma once
// What every softmax attention kernel is given, and the launchers that core/ops/cuda/softmax_attention.cu
// chooses from. Included by .cu files only.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/softmax_attention/sizes.h"

namespace spanwise::cuda {

/// One head of token t of row b of [B, T, heads, width] starts at data[(b · length + t) · stride + head ·
/// width].
template <class T>
struct HeadRows {
  T* data = nullptr;
  int64_t stride = 0;
  __device__ T* row(int batch, int length, int token, int head, int width) const {
    return data + (int64_t(batch) * length + token) * stride + int64_t(head) * width;
  }
};

/// What a block of queries reads: some of them keys [read_begin, read_end), none when the interval is empty;
/// all of them every key of [all_begin, all_end).
struct BlockBounds {
  int read_begin, read_end, all_begin, all_end;
  __device__ bool reads(int begin, int end) const { return read_begin < end && begin < read_end; }
  __device__ bool all_read(int begin, int end) const { return all_begin <= begin && end <= all_end; }
};

constexpr float kLog2E = 1.4426950408889634f;

/// `T`: float or __nv_bfloat16. `padded` is Tq rounded up to kQueryPad.
template <class T>
struct AttentionArgs {
  int batch, num_queries, num_keys, heads, kv_heads, key_width, value_width, padded;
  int num_processors;       ///< of the GPU
  float scale, scale_log2;  ///< scale · log2(e): exp(scale s) = exp2(scale_log2 s)
  HeadRows<const T> q, k, v;
  const int2* ranges;         ///< [B, Tq] keys [x, y) of every query
  const BlockBounds* bounds;  ///< [B, ceil(Tq / kBoundsQueries)]
  int num_bounds;             ///< a row's
  T* out;                     ///< [B, Tq, H, V]
  float* lse;                 ///< [B, Tq, H], natural logarithm
  int* turns;  ///< tickets of fwd_wgmma and bwd_wgmma, then bwd_wgmma's turns [B, H, padded / kBoundsQueries]
  // Backward.
  HeadRows<const T> dout;
  T *dq, *dk, *dv;          ///< contiguous
  const float* padded_lse;  ///< [B, H, padded] base 2; +infinity where the query is padding or reads no key
  const float* delta;       ///< [B, H, padded]; 0 there
  float* dq_sums;           ///< of attention_bwd_wgmma: dq / scale of blocks of kBoundsQueries, in its order
};

using AttentionArgsBf16 = AttentionArgs<__nv_bfloat16>;

// BF16, key_width = value_width in {64, 128, 256}; pointers and strides are multiples of 16 bytes.
void attention_fwd_mma(cudaStream_t stream, const AttentionArgsBf16& args);
void attention_dkdv_mma(cudaStream_t stream, const AttentionArgsBf16& args);
void attention_dq_mma(cudaStream_t stream, const AttentionArgsBf16& args);
// The same; dkdv of widths 64 and 128, and dkdv_wide of 256.
void attention_fwd_wgmma(cudaStream_t stream, const AttentionArgsBf16& args);
void attention_dkdv_wgmma(cudaStream_t stream, const AttentionArgsBf16& args);
void attention_dkdv_wide_wgmma(cudaStream_t stream, const AttentionArgsBf16& args);
void attention_dq_wgmma(cudaStream_t stream, const AttentionArgsBf16& args);
/// All three gradients in one, of width 128: 5 products a pair of blocks instead of 7. Blocks of keys add to
/// dq in descending order, each in its turn, so that sums have one order; quick only where a block of
/// queries starts reading new blocks of keys a few at a time, as under causal masks.
void attention_bwd_wgmma(cudaStream_t stream, const AttentionArgsBf16& args);

// F32, widths up to 256.
void attention_fwd_f32(cudaStream_t stream, const AttentionArgs<float>& args);
void attention_bwd_f32(cudaStream_t stream, const AttentionArgs<float>& args);

}  // namespace spanwise::cuda
