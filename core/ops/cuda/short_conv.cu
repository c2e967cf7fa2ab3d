#include "core/ops/cuda/common/short_conv.cuh"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

constexpr int kAhead = kConvAhead;

// kLanes: threads that hold a head; 0: heads are not divided by their length.
template <class T, int kTaps, int kChannels, bool kSilu, int kLanes>
__global__ void __launch_bounds__(kConvThreads)
    short_conv_kernel(const ConvOperands<T> a, T* __restrict__ out, T* __restrict__ final_state) {
  using Columns = ConvColumns<T, kTaps, kChannels>;
  using Values = typename Columns::Values;
  const int32_t channel = int32_t(blockIdx.x % a.tiles * kConvThreads + threadIdx.x) * kChannels;
  const unsigned mask = __ballot_sync(~0u, channel < a.channels);
  if (channel >= a.channels) return;
  const ConvPiece piece = a.pieces[blockIdx.x / a.tiles];
  const T* x = a.x + (piece.row * a.length + piece.begin) * a.x_stride + channel;
  T* to = out + (piece.row * a.length + piece.begin) * int64_t(a.channels) + channel;
  const int count = piece.end - piece.begin;

  // A ring: the token that is kAhead later takes a token's place.
  Values values[kAhead];
  const T* later = x;
#pragma unroll
  for (int n = 0; n < kAhead; ++n, later += a.x_stride)
    values[n] = n < count ? Values::load(later) : Values::zero();
  const Columns columns(a, channel);
  float h[Columns::kHistory][kChannels];
  columns.history(piece, h);
  for (int t = 0; t < count; t += kAhead) {
#pragma unroll
    for (int n = 0; n < kAhead; ++n, later += a.x_stride, to += a.channels) {
      float in[kChannels], result[kChannels];
      values[n].unpack(in);
      if (t + n + kAhead < count) values[n] = Values::load(later);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const float pre = columns.convolve(h, in[c], c);
        result[c] = kSilu ? activate<Activation::kSiLU>(pre) : pre;
      }
      if constexpr (kLanes > 0) {
        float squares = 0;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) squares = fmaf(result[c], result[c], squares);
        const float rstd = rsqrtf(sum_of_head<kLanes>(mask, squares) + a.l2_eps);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) result[c] *= rstd;
      }
      push(h, in);
      if (t + n < count) Values::from(result).store(to);
    }
  }

  if (piece.end == a.length) {
#pragma unroll
    for (int k = 0; k < Columns::kHistory; ++k) {
      const int token = piece.end - Columns::kHistory + k;
      columns.input(piece, token).store(final_state + columns.state_row(piece.row, k - Columns::kHistory));
    }
  }
}

template <class T, int kTaps, int kChannels, bool kSilu, int kLanes>
void launch(Context& ctx, const ShortConvInputs& in, const Tensor& out, const Tensor& final_state) {
  const auto kernel = short_conv_kernel<T, kTaps, kChannels, kSilu, kLanes>;
  ConvOperands<T> a = conv_operands<T>(in, kChannels);
  const int64_t tokens =
      conv_tokens_per_block(in.x.dim(0) * a.length, a.tiles, resident_blocks(kernel, kConvThreads));
  const std::vector<ConvPiece> pieces = cut_pieces(in.segments, a.length, tokens, nullptr);
  const Tensor uploaded = shared_upload(ctx, pieces);
  a.pieces = reinterpret_cast<const ConvPiece*>(uploaded.data<uint8_t>());
  kernel<<<unsigned(pieces.size()) * a.tiles, kConvThreads, 0, stream_of(ctx)>>>(a, pointer<T>(out),
                                                                                 pointer<T>(final_state));
  check_launch("short_conv");
}

}  // namespace

void short_conv_fwd(Context& ctx, const ShortConvInputs& in, const Tensor& out, const Tensor& final_state) {
  if (in.x.numel() == 0) return;
  const bool aligned =
      rows_are_aligned({&in.x, &in.initial_state, &out, &final_state}, in.x.dim(-1), kWideConv);
  dispatch_cuda(in.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_conv(in, [&](auto width, auto silu) {
      constexpr int kTaps = decltype(width)::value;
      constexpr bool kSilu = decltype(silu)::value;
      dispatch_columns<kSilu>(in, aligned, [&](auto channels, auto lanes) {
        launch<T, kTaps, decltype(channels)::value, kSilu, decltype(lanes)::value>(ctx, in, out, final_state);
      });
    });
  });
}

}  // namespace spanwise::cuda
