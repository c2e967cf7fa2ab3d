#include "core/ops/short_conv.h"

#include <algorithm>
#include <array>

#include "core/ops/cpu/activations.h"
#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise::cpu {

namespace {

// A task is up to kTokens tokens of one segment, done kChannels channels at a time: the rows it touches again
// and again (taps, neighbouring tokens, u in backward) stay in the caches next to the core.
constexpr int64_t kTokens = 64, kChannels = 256;

struct Piece {
  Segment segment;
  int64_t begin, end;
};

std::vector<Piece> cut(const std::vector<Segment>& segments) {
  std::vector<Piece> pieces;
  for (const Segment& s : segments) {
    for (int64_t begin = s.begin; begin < s.end; begin += kTokens)
      pieces.push_back({s, begin, std::min(begin + kTokens, s.end)});
  }
  return pieces;
}

// out[c] = finish(c, bias[c] + Σ_i taps[i·stride + c] inputs[i][c]) for n channels.
template <size_t W, class T, class F>
[[gnu::always_inline]] inline void convolve(int64_t n, const T* taps, int64_t stride, const T* bias,
                                            const std::array<const T*, W> inputs, T* __restrict out,
                                            F finish) {
  for (int64_t c = 0; c < n; ++c) {
    T sum = bias[c];
    for (size_t i = 0; i < W; ++i) sum += taps[int64_t(i) * stride + c] * inputs[i][c];
    out[c] = finish(c, sum);
  }
}

template <class T, size_t W, Activation kActivation>
class ShortConv {
 public:
  static constexpr int64_t kHistory = W - 1;

  explicit ShortConv(const ShortConvInputs& in)
      : length_(in.x.dim(1)),
        channels_(in.x.dim(2)),
        x_(in.x, channels_),
        initial_(in.initial_state.defined() ? in.initial_state.data<T>() : nullptr),
        taps_(W * size_t(channels_)),
        zeros_(size_t(channels_), T(0)),
        bias_(in.bias.defined() ? in.bias.data<T>() : zeros_.data()) {
    const T* weight = in.weight.data<T>();
    for (int64_t c = 0; c < channels_; ++c) {
      for (int64_t i = 0; i < int64_t(W); ++i) taps_[i * channels_ + c] = weight[c * W + i];
    }
  }

  void forward(const Piece& piece, T* out) const {
    for (int64_t first = 0; first < channels_; first += kChannels) {
      const int64_t n = std::min(kChannels, channels_ - first);
      for (int64_t t = piece.begin; t < piece.end; ++t) {
        convolve<W>(n, taps_.data() + first, channels_, bias_ + first, window(piece.segment, t, first),
                    out + (piece.segment.row * length_ + t) * channels_ + first,
                    [](int64_t, T pre) { return activate<kActivation>(pre); });
      }
    }
  }

  // Writes dx of the piece's tokens and, if the piece reads it, dinitial; adds to sums [W + 1, C]: dweight by
  // taps, then dbias. The next piece's first tokens read this piece's inputs, so their u is computed here
  // too.
  void backward(const Piece& piece, const Rows& dout, T* dx, T* dinitial, T* sums) const {
    const Segment& s = piece.segment;
    const int64_t reach = std::min(piece.end + kHistory, s.end);
    const bool reads_initial = initial_ && s.continues && piece.begin == 0;
    std::vector<T> u(size_t((reach - piece.begin) * kChannels));
    for (int64_t first = 0; first < channels_; first += kChannels) {
      const int64_t n = std::min(kChannels, channels_ - first);
      const auto u_row = [&](int64_t t) { return u.data() + (t - piece.begin) * kChannels; };
      for (int64_t t = piece.begin; t < reach; ++t) {
        const T* d = dout.at<T>(s.row * length_ + t) + first;
        const auto inputs = window(s, t, first);
        convolve<W>(n, taps_.data() + first, channels_, bias_ + first, inputs, u_row(t),
                    [d](int64_t c, T pre) { return d[c] * activation_derivative<kActivation>(pre); });
        if (t < piece.end) add_sums(n, u_row(t), inputs, sums + first);
      }
      for (int64_t t = reads_initial ? -kHistory : piece.begin; t < piece.end; ++t) {
        std::array<const T*, W> later;
        for (int64_t j = 0; j < int64_t(W); ++j)
          later[W - 1 - j] = t + j >= piece.begin && t + j < reach ? u_row(t + j) : zeros_.data();
        T* to = t >= 0 ? dx + (s.row * length_ + t) * channels_ : initial_row(dinitial, s.row, t);
        convolve<W>(n, taps_.data() + first, channels_, zeros_.data(), later, to + first,
                    [](int64_t, T sum) { return sum; });
      }
    }
  }

  // The W − 1 inputs before the token after a row's last one.
  void final_state(const Segment& last, T* state) const {
    for (int64_t k = 0; k < kHistory; ++k)
      std::copy_n(input(last, length_ - kHistory + k), channels_,
                  state + (last.row * kHistory + k) * channels_);
  }

  // Adds final_state's gradient to where its rows came from.
  void final_state_backward(const Segment& last, const T* dstate, T* dx, T* dinitial) const {
    for (int64_t k = 0; k < kHistory; ++k) {
      const int64_t t = length_ - kHistory + k;
      T* to = nullptr;
      if (t >= last.begin) {
        to = dx + (last.row * length_ + t) * channels_;
      } else if (initial_ && last.continues) {
        to = initial_row(dinitial, last.row, t);
      } else {
        continue;
      }
      const T* from = dstate + (last.row * kHistory + k) * channels_;
      for (int64_t c = 0; c < channels_; ++c) to[c] += from[c];
    }
  }

 private:
  // Row t < 0 of a [B, W − 1, C] state whose last row is token −1.
  template <class U>
  U* initial_row(U* state, int64_t row, int64_t t) const {
    return state + (row * kHistory + t + kHistory) * channels_;
  }

  // What a token of segment s sees at t: nothing of other documents. A segment that continues begins at 0.
  const T* input(const Segment& s, int64_t t) const {
    if (t >= s.begin) return x_.at<T>(s.row * length_ + t);
    return initial_ && s.continues ? initial_row(initial_, s.row, t) : zeros_.data();
  }

  std::array<const T*, W> window(const Segment& s, int64_t t, int64_t first_channel) const {
    std::array<const T*, W> rows;
    for (int64_t i = 0; i < int64_t(W); ++i) rows[i] = input(s, t - kHistory + i) + first_channel;
    return rows;
  }

  void add_sums(int64_t n, const T* u, const std::array<const T*, W> inputs, T* sums) const {
    for (size_t i = 0; i < W; ++i) {
      T* __restrict tap = sums + int64_t(i) * channels_;
      for (int64_t c = 0; c < n; ++c) tap[c] += u[c] * inputs[i][c];
    }
    T* __restrict bias = sums + int64_t(W) * channels_;
    for (int64_t c = 0; c < n; ++c) bias[c] += u[c];
  }

  int64_t length_, channels_;
  Rows x_;
  const T* initial_;
  std::vector<T> taps_, zeros_;  // taps_ [W, C]: the weight transposed, so that channels are consecutive
  const T* bias_;
};

// fn(ShortConv<…>) for the dtype, width and activation of the operands.
template <class F>
void dispatch(const ShortConvInputs& in, F&& fn) {
  dispatch_float(in.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto by_width = [&](auto width) {
      constexpr size_t kWidth = decltype(width)::value;
      if (in.activation == Activation::kSiLU) {
        fn(zero, ShortConv<T, kWidth, Activation::kSiLU>(in));
      } else {
        fn(zero, ShortConv<T, kWidth, Activation::kNone>(in));
      }
    };
    switch (in.weight.dim(-1)) {
      case 2:
        return by_width(std::integral_constant<size_t, 2>{});
      case 3:
        return by_width(std::integral_constant<size_t, 3>{});
      case 4:
        return by_width(std::integral_constant<size_t, 4>{});
    }
  });
}

template <class F>
void for_each_last_segment(const ShortConvInputs& in, F&& fn) {
  for (const Segment& s : in.segments) {
    if (s.end == in.x.dim(1)) fn(s);
  }
}

}  // namespace

void short_conv_fwd(const Context& ctx, const ShortConvInputs& in, const Tensor& out,
                    const Tensor& final_state) {
  const std::vector<Piece> pieces = cut(in.segments);
  dispatch(in, [&](auto zero, const auto& conv) {
    using T = decltype(zero);
    parallel_for(ctx, int64_t(pieces.size()), [&](int64_t p) { conv.forward(pieces[p], out.data<T>()); });
    for_each_last_segment(in, [&](const Segment& s) { conv.final_state(s, final_state.data<T>()); });
  });
}

void short_conv_bwd(const Context& ctx, const ShortConvInputs& in, const Tensor& dout,
                    const Tensor& dfinal_state, const ShortConvGradients& grads) {
  const std::vector<Piece> pieces = cut(in.segments);
  const int64_t channels = in.x.dim(-1), width = in.weight.dim(-1);
  const Rows dout_rows(dout, channels);
  if (grads.dinitial_state.defined()) grads.dinitial_state.fill(0);
  dispatch(in, [&](auto zero, const auto& conv) {
    using T = decltype(zero);
    T* dx = grads.dx.data<T>();
    T* dinitial = grads.dinitial_state.defined() ? grads.dinitial_state.data<T>() : nullptr;
    std::vector<T> sums(size_t((width + 1) * channels));
    column_sums<T>(
        ctx, int64_t(pieces.size()), (width + 1) * channels, sums.data(),
        [&](int64_t p, T* partial) { conv.backward(pieces[p], dout_rows, dx, dinitial, partial); },
        /*min_rows=*/1);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < width; ++i) grads.dweight.data<T>()[c * width + i] = sums[i * channels + c];
    }
    if (grads.dbias.defined()) std::copy_n(sums.data() + width * channels, channels, grads.dbias.data<T>());
    if (dfinal_state.defined()) {
      for_each_last_segment(
          in, [&](const Segment& s) { conv.final_state_backward(s, dfinal_state.data<T>(), dx, dinitial); });
    }
  });
}

}  // namespace spanwise::cpu
