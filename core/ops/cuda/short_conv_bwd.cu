#include "core/ops/cuda/common/partial_sums.h"
#include "core/ops/cuda/common/short_conv.cuh"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

template <class T>
struct ConvCotangents {
  const T *dout, *dfinal;  // dfinal [B, W − 1, C] or nullptr
  int64_t dout_stride;
  T *dx, *dinitial;        // dinitial, zeroed, or nullptr
  float *dweight, *dbias;  // partials [ranges, C, W] and [ranges, C]
  const int32_t* first;    // a range's pieces are [first[range], first[range + 1])
};

// One piece: u_t = dout_t φ'(pre_t) for its tokens and the W − 1 after it that read its inputs; dx of token s
// follows once u of s + W − 1 is known. kLanes: threads that hold a head; 0: heads were not divided.
template <class T, int kTaps, int kChannels, bool kSilu, int kLanes, int kAhead>
struct PieceBackward {
  using Columns = ConvColumns<T, kTaps, kChannels>;
  using Values = typename Columns::Values;
  static constexpr int kHistory = kTaps - 1;
  const ConvOperands<T>& a;
  const ConvCotangents<T>& g;
  const Columns& columns;
  const unsigned mask;  // the warp's threads that are there
  float dtap[kTaps][kChannels] = {}, dbias[kChannels] = {};

  // Where a thread stands in a piece: the last inputs and u, and the loads that are kAhead tokens ahead.
  struct State {
    float h[kHistory][kChannels], window[kHistory][kChannels] = {};
    Values x[kAhead], dout[kAhead];
    const T *later_x, *later_dout;
    T* dx;  // of the token whose dx is stored next
  };

  // u of one token from dout: φ' and, before it, the gradient of what divided the head by its length,
  // dz = rstd (dout − z rstd² ⟨z, dout⟩) for z = φ(pre).
  __device__ __forceinline__ void through_silu(const float (&pre)[kChannels], float (&u)[kChannels]) const {
    SiluValue silu[kChannels];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) silu[c] = silu_value(pre[c]);
    if constexpr (kLanes > 0) {
      float squares = 0, dot = 0;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        squares = fmaf(silu[c].value, silu[c].value, squares);
        dot = fmaf(silu[c].value, u[c], dot);
      }
      const float rstd = rsqrtf(sum_of_head<kLanes>(mask, squares) + a.l2_eps);
      const float along = sum_of_head<kLanes>(mask, dot) * rstd * rstd;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) u[c] = rstd * (u[c] - silu[c].value * along);
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c) u[c] *= silu[c].derivative;
  }

  // dx_s = Σ_j w_{W−1−j} u_{s+j}, of u_s … u_{s+W−2} in the window and u_{s+W−1}.
  __device__ __forceinline__ void combine(const State& state, const float (&u)[kChannels],
                                          float (&dx)[kChannels]) const {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      dx[c] = columns.tap[0][c] * u[c];
#pragma unroll
      for (int j = 0; j < kHistory; ++j)
        dx[c] = fmaf(columns.tap[kHistory - j][c], state.window[j][c], dx[c]);
    }
  }

  // Stores dx of a token near the piece's ends: none before its begin but the initial state's, none from its
  // end on; and adds what arrives through final_state.
  __device__ void store_at_ends(const ConvPiece& piece, int s, float (&dx)[kChannels], T* to) const {
    const bool to_initial = s < 0 && g.dinitial && piece.continues && piece.begin == 0 && s >= -kHistory;
    if (s >= piece.end || (s < piece.begin && !to_initial)) return;
    const int from_end = s - int(a.length);
    if (g.dfinal && piece.segment_end == a.length && from_end >= -kHistory) {
      const Values added = Values::load(g.dfinal + columns.state_row(piece.row, from_end));
#pragma unroll
      for (int c = 0; c < kChannels; ++c) dx[c] += added.get(c);
    }
    Values::from(dx).store(to_initial ? g.dinitial + columns.state_row(piece.row, s) : to);
  }

  // Tokens t … t + kAhead − 1. kInner: all are the piece's own, and so are those whose dx is stored.
  template <bool kInner>
  __device__ __forceinline__ void tokens(const ConvPiece& piece, int t, int reach, State& state) {
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      float x[kChannels], pre[kChannels], u[kChannels], dx[kChannels];
      state.x[n].unpack(x);
      state.dout[n].unpack(u);
      const bool inside = t + n + kAhead < reach;
      state.x[n] = inside ? Values::load(state.later_x) : Values::zero();
      state.dout[n] = inside ? Values::load(state.later_dout) : Values::zero();
      if constexpr (kSilu) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) pre[c] = columns.convolve(state.h, x[c], c);
        through_silu(pre, u);
      }
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const float mine = kInner || t + n < piece.end ? u[c] : 0.0f;  // the next piece counts the others
        dbias[c] += mine;
        dtap[kHistory][c] = fmaf(mine, x[c], dtap[kHistory][c]);
#pragma unroll
        for (int k = 0; k < kHistory; ++k) dtap[k][c] = fmaf(mine, state.h[k][c], dtap[k][c]);
      }
      combine(state, u, dx);
      if constexpr (kInner) {
        Values::from(dx).store(state.dx);
      } else {
        store_at_ends(piece, t + n - kHistory, dx, state.dx);
      }
      push(state.h, x);
      push(state.window, u);
      state.later_x += a.x_stride;
      state.later_dout += g.dout_stride;
      state.dx += a.channels;
    }
  }

  __device__ void run(const ConvPiece& piece) {
    State state;
    const int reach = min(piece.end + kHistory, piece.segment_end);
    const int64_t token = piece.row * a.length + piece.begin;
    state.later_x = a.x + token * a.x_stride + columns.channel;
    state.later_dout = g.dout + token * g.dout_stride + columns.channel;
    state.dx = g.dx + (token - kHistory) * a.channels + columns.channel;
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const bool inside = piece.begin + n < reach;
      state.x[n] = inside ? Values::load(state.later_x) : Values::zero();
      state.dout[n] = inside ? Values::load(state.later_dout) : Values::zero();
      state.later_x += a.x_stride;
      state.later_dout += g.dout_stride;
    }
    columns.history(piece, state.h);
    for (int t = piece.begin; t < piece.end + kHistory; t += kAhead) {
      if (t >= piece.begin + kHistory && t + kAhead <= piece.end) {
        tokens<true>(piece, t, reach, state);
      } else {
        tokens<false>(piece, t, reach, state);
      }
    }
  }
};

template <class T, int kTaps, int kChannels, bool kSilu, int kLanes, int kAhead>
__global__ void __launch_bounds__(kConvThreads)
    short_conv_bwd_kernel(const ConvOperands<T> a, const ConvCotangents<T> g) {
  const int32_t channel = int32_t(blockIdx.x % a.tiles * kConvThreads + threadIdx.x) * kChannels;
  const unsigned mask = __ballot_sync(~0u, channel < a.channels);
  if (channel >= a.channels) return;
  const int64_t range = blockIdx.x / a.tiles;
  const ConvColumns<T, kTaps, kChannels> columns(a, channel);
  PieceBackward<T, kTaps, kChannels, kSilu, kLanes, kAhead> backward{a, g, columns, mask};
  for (int p = g.first[range]; p < g.first[range + 1]; ++p) backward.run(a.pieces[p]);
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int64_t at = range * a.channels + channel + c;
    if (g.dbias) g.dbias[at] = backward.dbias[c];
#pragma unroll
    for (int i = 0; i < kTaps; ++i) g.dweight[at * kTaps + i] = backward.dtap[i][c];
  }
}

template <class T, int kTaps, int kChannels, bool kSilu, int kLanes, int kAhead>
void launch(Context& ctx, const ShortConvInputs& in, const Tensor& dout, const Tensor& dfinal_state,
            const ShortConvGradients& grads) {
  const auto kernel = short_conv_bwd_kernel<T, kTaps, kChannels, kSilu, kLanes, kAhead>;
  ConvOperands<T> a = conv_operands<T>(in, kChannels);
  const int64_t tokens = in.x.dim(0) * a.length;
  const int64_t per_range = conv_tokens_per_range(tokens, a.tiles, resident_blocks(kernel, kConvThreads));
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

void short_conv_bwd(Context& ctx, const ShortConvInputs& in, const Tensor& out_gradient,
                    const Tensor& state_gradient, const ShortConvGradients& grads) {
  if (grads.dinitial_state.defined()) grads.dinitial_state.set_zero();
  if (in.x.numel() == 0) {
    grads.dweight.set_zero();
    if (grads.dbias.defined()) grads.dbias.set_zero();
    return;
  }
  SPANWISE_CHECK(!state_gradient.defined() || state_gradient.contiguous(),
                 "short_conv: the gradient of final_state {} must be contiguous",
                 state_gradient.shape().str());
  // Heads are divided in aligned rows only, as forward found x to be.
  const auto aligned_for_heads = [&](const Tensor& t) {
    if (!conv_copies(in, t)) return t;
    const Tensor copy = Tensor::empty(ctx, t.shape(), t.dtype());
    copy.copy_from(t);
    return copy;
  };
  const Tensor dout = aligned_for_heads(out_gradient), dfinal_state = aligned_for_heads(state_gradient);
  const bool aligned =
      rows_are_aligned({&in.x, &in.initial_state, &dout, &dfinal_state, &grads.dx, &grads.dinitial_state},
                       in.x.dim(-1), kWideConv);
  dispatch_cuda(in.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_conv(in, [&](auto width, auto silu) {
      constexpr int kTaps = decltype(width)::value;
      constexpr bool kSilu = decltype(silu)::value;
      dispatch_columns<kSilu>(in, aligned, [&](auto channels, auto lanes) {
        constexpr int kChannels = decltype(channels)::value;
        // What fits in the registers.
        constexpr int kAhead = sizeof(T) == 2 && kChannels == kWideConv ? 8 : 4;
        launch<T, kTaps, kChannels, kSilu, decltype(lanes)::value, kAhead>(ctx, in, dout, dfinal_state,
                                                                           grads);
      });
    });
  });
}

}  // namespace spanwise::cuda
