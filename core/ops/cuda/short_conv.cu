#include "core/ops/cuda/common/short_conv.cuh"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

// Tokens on their way while one is computed, and tokens of a block: enough that the window's reload, from the
// L2, hardly counts, and few enough that blocks come and go evenly.
constexpr int64_t kTokensPerBlock = 64;

template <class T, int kTaps, int kChannels, bool kSilu, int kAhead>
__global__ void __launch_bounds__(kConvThreads)
    short_conv_kernel(const ConvOperands<T> a, T* __restrict__ out, T* __restrict__ final_state) {
  using Columns = ConvColumns<T, kTaps, kChannels>;
  using Values = typename Columns::Values;
  const int32_t channel = int32_t(blockIdx.x % a.tiles * kConvThreads + threadIdx.x) * kChannels;
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

}  // namespace

std::vector<ConvPiece> cut_pieces(const std::vector<Segment>& segments, int64_t length, int64_t tokens,
                                  std::vector<int32_t>* first) {
  std::vector<ConvPiece> pieces;
  for (const Segment& s : segments) {
    for (int64_t begin = s.begin; begin < s.end;) {
      const int64_t flat = s.row * length + begin;
      const int64_t end = std::min(s.end, begin + tokens - flat % tokens);
      if (first && (first->empty() || flat % tokens == 0)) first->push_back(int32_t(pieces.size()));
      pieces.push_back({int32_t(s.row), int32_t(begin), int32_t(end), int32_t(s.begin), int32_t(s.end),
                        s.continues ? 1 : 0});
      begin = end;
    }
  }
  if (first) first->push_back(int32_t(pieces.size()));
  return pieces;
}

void short_conv_fwd(Context& ctx, const ShortConvInputs& in, const Tensor& out, const Tensor& final_state) {
  if (in.x.numel() == 0) return;
  const std::vector<ConvPiece> pieces = cut_pieces(in.segments, in.x.dim(1), kTokensPerBlock, nullptr);
  const Tensor uploaded = shared_upload(ctx, pieces);
  constexpr int kWide = 4;
  const bool aligned = rows_are_aligned({&in.x, &in.initial_state, &out, &final_state}, in.x.dim(-1), kWide);
  dispatch_cuda(in.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_conv(in, [&](auto width, auto silu) {
      const auto launch = [&](auto channels) {
        constexpr int kChannels = decltype(channels)::value;
        ConvOperands<T> a = conv_operands<T>(in, kChannels);
        a.pieces = reinterpret_cast<const ConvPiece*>(uploaded.data<uint8_t>());
        short_conv_kernel<T, decltype(width)::value, kChannels, decltype(silu)::value, 8>
            <<<unsigned(pieces.size()) * a.tiles, kConvThreads, 0, stream_of(ctx)>>>(a, pointer<T>(out),
                                                                                     pointer<T>(final_state));
      };
      aligned ? launch(std::integral_constant<int, kWide>{}) : launch(std::integral_constant<int, 1>{});
    });
  });
  check_launch("short_conv");
}

}  // namespace spanwise::cuda
