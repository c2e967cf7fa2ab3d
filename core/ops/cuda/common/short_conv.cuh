#pragma once
// What the short convolution's forward and backward share. A thread owns kChannels channels and marches
// through the tokens of a piece with the last W − 1 inputs in registers.

#include "core/ops/cuda/common/activations.cuh"
#include "core/ops/cuda/common/conv_pieces.h"
#include "core/ops/cuda/common/pack.cuh"
#include "core/ops/cuda/common/rows.cuh"
#include "core/ops/short_conv.h"

namespace spanwise::cuda {

template <class T>
struct ConvOperands {
  const T *x, *initial;  ///< initial [B, W − 1, C] or nullptr
  const float *weight, *bias;
  int64_t x_stride;  ///< between tokens
  int64_t length;
  int32_t channels;
  float l2_eps;    ///< of heads divided by their length
  unsigned tiles;  ///< blocks across the channels; a block's tile is its index mod tiles
  const ConvPiece* pieces;
};

template <class T, int kTaps, int kChannels>
struct ConvColumns {
  using Values = Pack<T, kChannels>;
  static constexpr int kHistory = kTaps - 1;
  const ConvOperands<T>& a;
  int32_t channel;
  float tap[kTaps][kChannels], bias[kChannels];

  __device__ ConvColumns(const ConvOperands<T>& operands, int32_t first_channel)
      : a(operands), channel(first_channel) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      bias[c] = a.bias ? a.bias[channel + c] : 0.0f;
#pragma unroll
      for (int i = 0; i < kTaps; ++i) tap[i][c] = a.weight[int64_t(channel + c) * kTaps + i];
    }
  }

  /// What a token of the piece's segment sees at t ≥ −kHistory: nothing of other documents.
  __device__ Values input(const ConvPiece& piece, int t) const {
    if (t >= piece.segment_begin)
      return Values::load(a.x + (piece.row * a.length + t) * a.x_stride + channel);
    if (a.initial && piece.continues && t >= -kHistory)
      return Values::load(a.initial + state_row(piece.row, t));
    return Values::zero();
  }
  /// Row t < 0 of a [B, W − 1, C] state whose last row is token −1.
  __device__ int64_t state_row(int row, int t) const {
    return (int64_t(row) * kHistory + t + kHistory) * a.channels + channel;
  }
  __device__ void history(const ConvPiece& piece, float (&h)[kHistory][kChannels]) const {
#pragma unroll
    for (int k = 0; k < kHistory; ++k) input(piece, piece.begin - kHistory + k).unpack(h[k]);
  }
  __device__ __forceinline__ float convolve(const float (&h)[kHistory][kChannels], float x, int c) const {
    float sum = fmaf(tap[kHistory][c], x, bias[c]);
#pragma unroll
    for (int k = 0; k < kHistory; ++k) sum = fmaf(tap[k][c], h[k][c], sum);
    return sum;
  }
};

/// The window without its oldest row and with x.
template <int kHistory, int kChannels>
__device__ __forceinline__ void push(float (&h)[kHistory][kChannels], const float (&x)[kChannels]) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
#pragma unroll
    for (int k = 0; k + 1 < kHistory; ++k) h[k][c] = h[k + 1][c];
    h[kHistory - 1][c] = x[c];
  }
}

/// The sum over the kLanes neighbouring threads that hold a head; `mask`: the threads of the warp that are
/// there.
template <int kLanes>
__device__ __forceinline__ float sum_of_head(unsigned mask, float x) {
#pragma unroll
  for (int m = kLanes / 2; m > 0; m /= 2) x += __shfl_xor_sync(mask, x, m);
  return x;
}

/// fn(width as a compile-time constant, whether φ is SiLU as one).
template <class F>
void dispatch_conv(const ShortConvInputs& in, F&& fn) {
  const auto by_activation = [&](auto width) {
    if (in.activation == Activation::kSiLU) {
      fn(width, std::true_type{});
    } else {
      fn(width, std::false_type{});
    }
  };
  switch (in.weight.dim(-1)) {
    case 2:
      return by_activation(std::integral_constant<int, 2>{});
    case 3:
      return by_activation(std::integral_constant<int, 3>{});
    case 4:
      return by_activation(std::integral_constant<int, 4>{});
  }
}

/// fn(channels of a thread, threads that hold a head), as compile-time constants; the second is 0 where heads
/// are not divided by their length. `aligned`: every operand's rows are, for kWideConv channels.
template <bool kSilu, class F>
void dispatch_columns(const ShortConvInputs& in, bool aligned, F&& fn) {
  const auto wide = [&fn](auto lanes) { fn(std::integral_constant<int, kWideConv>{}, lanes); };
  constexpr std::integral_constant<int, 0> kNoHeads;
  if (in.heads.dim == 0) return aligned ? wide(kNoHeads) : fn(std::integral_constant<int, 1>{}, kNoHeads);
  if constexpr (kSilu) {
    if (aligned && in.heads.dim == 64) return wide(std::integral_constant<int, 64 / kWideConv>{});
    if (aligned && in.heads.dim == 128) return wide(std::integral_constant<int, 128 / kWideConv>{});
  }
  SPANWISE_FAIL("short_conv: heads of {} channels cannot be divided here", in.heads.dim);
}

template <class T>
ConvOperands<T> conv_operands(const ShortConvInputs& in, int channels_per_thread) {
  const int64_t channels = in.x.dim(-1);
  ConvOperands<T> a{};
  a.x = pointer<T>(in.x);
  a.initial = pointer<T>(in.initial_state);
  a.weight = pointer<float>(in.weight);
  a.bias = pointer<float>(in.bias);
  a.x_stride = in.x.row_stride(channels);
  a.length = in.x.dim(1);
  a.channels = int32_t(channels);
  a.l2_eps = float(in.heads.eps);
  a.tiles = unsigned(conv_tiles(channels, channels_per_thread));
  return a;
}

}  // namespace spanwise::cuda
