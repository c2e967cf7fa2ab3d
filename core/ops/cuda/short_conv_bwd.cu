#include "core/ops/cuda/common/partial_sums.h"
#include "core/ops/cuda/common/short_conv.cuh"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

constexpr int kAhead = 4;

template <class T>
struct ConvCotangents {
  const T *dout, *dfinal;  // dfinal [B, W − 1, C] or nullptr
  int64_t dout_stride;
  T *dx, *dinitial;        // dinitial, zeroed, or nullptr
  float *dweight, *dbias;  // partials [ranges, C, W] and [ranges, C]
  const int32_t* first;    // a range's pieces are [first[range], first[range + 1])
};

// One piece: u_t = dout_t φ'(pre_t) for its tokens and the W − 1 after it that read its inputs; dx of token s
// follows once u of s + W − 1 is known.
template <class T, int kTaps, int kChannels, bool kSilu>
struct PieceBackward {
  using Columns = ConvColumns<T, kTaps, kChannels>;
  using Values = typename Columns::Values;
  static constexpr int kHistory = kTaps - 1;
  const ConvOperands<T>& a;
  const ConvCotangents<T>& g;
  const Columns& columns;
  float dtap[kTaps][kChannels] = {}, dbias[kChannels] = {};

  __device__ void load(const ConvPiece& piece, int t, Values (&x)[kAhead], Values (&dout)[kAhead]) const {
    const int reach = min(piece.end + kHistory, piece.segment_end);
    const int64_t token = piece.row * a.length + t;
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const bool inside = t + n < reach;
      x[n] = inside ? Values::load(a.x + (token + n) * a.x_stride + columns.channel) : Values::zero();
      dout[n] =
          inside ? Values::load(g.dout + (token + n) * g.dout_stride + columns.channel) : Values::zero();
    }
  }

  // dx_s = Σ_j w_{W−1−j} u_{s+j}, of u_s … u_{s+W−2} in `window` and u_{s+W−1}; and what arrives at it
  // through final_state.
  __device__ void store(const ConvPiece& piece, int s, const float (&window)[kHistory][kChannels],
                        const float (&u)[kChannels]) const {
    const bool to_initial = s < 0 && g.dinitial && piece.continues && piece.begin == 0 && s >= -kHistory;
    if (s >= piece.end || (s < piece.begin && !to_initial)) return;
    float dx[kChannels];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      dx[c] = columns.tap[0][c] * u[c];
#pragma unroll
      for (int j = 0; j < kHistory; ++j) dx[c] = fmaf(columns.tap[kHistory - j][c], window[j][c], dx[c]);
    }
    const int from_end = s - int(a.length);
    if (g.dfinal && piece.segment_end == a.length && from_end >= -kHistory) {
      const Values added = Values::load(g.dfinal + columns.state_row(piece.row, from_end));
#pragma unroll
      for (int c = 0; c < kChannels; ++c) dx[c] += added.get(c);
    }
    T* to = to_initial ? g.dinitial + columns.state_row(piece.row, s)
                       : g.dx + (piece.row * a.length + s) * int64_t(a.channels) + columns.channel;
    Values::from(dx).store(to);
  }

  __device__ void run(const ConvPiece& piece) {
    float h[kHistory][kChannels], window[kHistory][kChannels] = {};
    columns.history(piece, h);
    Values next_x[kAhead], next_dout[kAhead];
    load(piece, piece.begin, next_x, next_dout);
    for (int t = piece.begin; t < piece.end + kHistory; t += kAhead) {
      Values now_x[kAhead], now_dout[kAhead];
#pragma unroll
      for (int n = 0; n < kAhead; ++n) {
        now_x[n] = next_x[n];
        now_dout[n] = next_dout[n];
      }
      load(piece, t + kAhead, next_x, next_dout);
#pragma unroll
      for (int n = 0; n < kAhead; ++n) {
        float x[kChannels], u[kChannels];
        now_x[n].unpack(x);
        now_dout[n].unpack(u);
        const float own = t + n < piece.end ? 1.0f : 0.0f;  // the next piece counts the others
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if constexpr (kSilu) u[c] *= activation_derivative<Activation::kSiLU>(columns.convolve(h, x[c], c));
          const float mine = u[c] * own;
          dbias[c] += mine;
          dtap[kHistory][c] = fmaf(mine, x[c], dtap[kHistory][c]);
#pragma unroll
          for (int k = 0; k < kHistory; ++k) dtap[k][c] = fmaf(mine, h[k][c], dtap[k][c]);
        }
        store(piece, t + n - kHistory, window, u);
        push(h, x);
        push(window, u);
      }
    }
  }
};

template <class T, int kTaps, int kChannels, bool kSilu>
__global__ void __launch_bounds__(kConvThreads)
    short_conv_bwd_kernel(const ConvOperands<T> a, const ConvCotangents<T> g) {
  const int32_t channel = int32_t(blockIdx.x % a.tiles * kConvThreads + threadIdx.x) * kChannels;
  if (channel >= a.channels) return;
  const int64_t range = blockIdx.x / a.tiles;
  const ConvColumns<T, kTaps, kChannels> columns(a, channel);
  PieceBackward<T, kTaps, kChannels, kSilu> backward{a, g, columns};
  for (int p = g.first[range]; p < g.first[range + 1]; ++p) backward.run(a.pieces[p]);
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int64_t at = range * a.channels + channel + c;
    if (g.dbias) g.dbias[at] = backward.dbias[c];
#pragma unroll
    for (int i = 0; i < kTaps; ++i) g.dweight[at * kTaps + i] = backward.dtap[i][c];
  }
}

template <class T, int kTaps, int kChannels, bool kSilu>
void launch(Context& ctx, const ShortConvInputs& in, const Tensor& dout, const Tensor& dfinal_state,
            const ShortConvGradients& grads) {
  const auto kernel = short_conv_bwd_kernel<T, kTaps, kChannels, kSilu>;
  ConvOperands<T> a = conv_operands<T>(in, kChannels);
  const int64_t tokens = in.x.dim(0) * a.length;
  const int64_t wanted = std::max<int64_t>(resident_blocks(kernel, kConvThreads) / a.tiles, 1);
  const int64_t per_range = std::max<int64_t>(ceil_div(tokens, wanted), 16);
  std::vector<int32_t> first;
  const std::vector<ConvPiece> pieces = cut_pieces(in.segments, a.length, per_range, &first);
  const int64_t ranges = int64_t(first.size()) - 1;
  const Tensor pieces_memory = shared_upload(ctx, pieces), first_memory = shared_upload(ctx, first);
  const Tensor dweight = Tensor::empty(ctx, {ranges, grads.dweight.numel()}, DType::kF32);
  const Tensor dbias =
      grads.dbias.defined() ? Tensor::empty(ctx, {ranges, grads.dbias.numel()}, DType::kF32) : Tensor();
  a.pieces = reinterpret_cast<const ConvPiece*>(pieces_memory.data<uint8_t>());
  const ConvCotangents<T> g{pointer<T>(dout),
                            pointer<T>(dfinal_state),
                            dout.row_stride(a.channels),
                            pointer<T>(grads.dx),
                            pointer<T>(grads.dinitial_state),
                            pointer<float>(dweight),
                            pointer<float>(dbias),
                            reinterpret_cast<const int32_t*>(first_memory.data<uint8_t>())};
  kernel<<<unsigned(ranges) * a.tiles, kConvThreads, 0, stream_of(ctx)>>>(a, g);
  check_launch("short_conv backward");
  sum_partials(ctx, g.dweight, ranges, grads.dweight.numel(), pointer<float>(grads.dweight));
  if (grads.dbias.defined())
    sum_partials(ctx, g.dbias, ranges, grads.dbias.numel(), pointer<float>(grads.dbias));
}

}  // namespace

void short_conv_bwd(Context& ctx, const ShortConvInputs& in, const Tensor& dout, const Tensor& dfinal_state,
                    const ShortConvGradients& grads) {
  if (grads.dinitial_state.defined()) grads.dinitial_state.set_zero();
  if (in.x.numel() == 0) {
    grads.dweight.set_zero();
    if (grads.dbias.defined()) grads.dbias.set_zero();
    return;
  }
  SPANWISE_CHECK(!dfinal_state.defined() || dfinal_state.contiguous(),
                 "short_conv: the gradient of final_state {} must be contiguous", dfinal_state.shape().str());
  constexpr int kWide = 4;
  const bool aligned =
      rows_are_aligned({&in.x, &in.initial_state, &dout, &dfinal_state, &grads.dx, &grads.dinitial_state},
                       in.x.dim(-1), kWide);
  dispatch_cuda(in.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_conv(in, [&](auto width, auto silu) {
      constexpr int kTaps = decltype(width)::value;
      constexpr bool kSilu = decltype(silu)::value;
      if (aligned) {
        launch<T, kTaps, kWide, kSilu>(ctx, in, dout, dfinal_state, grads);
      } else {
        launch<T, kTaps, 1, kSilu>(ctx, in, dout, dfinal_state, grads);
      }
    });
  });
}

}  // namespace spanwise::cuda
