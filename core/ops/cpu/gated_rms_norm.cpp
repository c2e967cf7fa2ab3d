#include "core/ops/gated_rms_norm.h"

#include <cmath>

#include "core/ops/cpu/activations.h"
#include "core/ops/cpu/column_sums.h"
#include "core/ops/cpu/reduce_rows.h"

namespace spanwise::cpu {

namespace {

constexpr int64_t kRowsPerBlock = 32;

// The weight, or ones where it is undefined: row r uses row r mod groups.
template <class T>
struct Weight {
  Weight(const Tensor& weight, int64_t width)
      : groups(weight.defined() ? weight.numel() / width : 1),
        ones(weight.defined() ? 0 : size_t(width), T(1)),
        data(weight.defined() ? weight.data<T>() : ones.data()) {}
  int64_t groups;
  std::vector<T> ones;
  const T* data;
};

// The sum of squares of what is normalised; y holds φ(gate) after it.
template <Activation kGate, GateOrder kOrder, class T>
T square_row(int64_t n, const T* x, const T* gate, T* __restrict y) {
  for (int64_t i = 0; i < n; ++i) y[i] = activate<kGate>(gate[i]);
  T square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < n; ++i) {
    const T u = kOrder == GateOrder::kGateThenNorm ? x[i] * y[i] : x[i];
    square += u * u;
  }
  return square;
}

// Σ dy∘w∘x∘φ(gate); dx and dgate hold φ(gate) and φ'(gate) after it.
template <Activation kGate, class T>
T backward_dot(int64_t n, const T* dy, const T* x, const T* gate, const T* w, T* __restrict dx,
               T* __restrict dgate) {
  for (int64_t i = 0; i < n; ++i) {
    dx[i] = activate<kGate>(gate[i]);
    dgate[i] = activation_derivative<kGate>(gate[i]);
  }
  T dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) dot += dy[i] * w[i] * (x[i] * dx[i]);
  return dot;
}

// Overwrites φ(gate) and φ'(gate) in dx and dgate; dw is added to. `mean`: the dot · rstd² / width.
template <GateOrder kOrder, class T>
void backward_row(int64_t n, const T* dy, const T* x, const T* w, T rstd, T mean, T* __restrict dx,
                  T* __restrict dgate, T* __restrict dw) {
  for (int64_t i = 0; i < n; ++i) {
    const T f = dx[i], df = dgate[i], dnormed = dy[i] * w[i];
    dw[i] += dy[i] * (x[i] * f) * rstd;
    if constexpr (kOrder == GateOrder::kNormThenGate) {
      dx[i] = rstd * (dnormed * f - x[i] * mean);
      dgate[i] = rstd * dnormed * x[i] * df;
    } else {
      const T du = rstd * (dnormed - x[i] * f * mean);
      dx[i] = du * f;
      dgate[i] = du * x[i] * df;
    }
  }
}

int64_t whole_width(const GatedNormInputs& in) {
  return in.options.part.divided() ? in.options.part.whole : in.x.dim(-1);
}

// fn(zero of the dtype, gate activation, order), the last two as compile-time constants.
template <class F>
void dispatch(const GatedNormInputs& in, F&& fn) {
  dispatch_float(in.x.dtype(), [&](auto zero) {
    const auto by_order = [&](auto gate) {
      if (in.options.order == GateOrder::kNormThenGate) {
        fn(zero, gate, std::integral_constant<GateOrder, GateOrder::kNormThenGate>{});
      } else {
        fn(zero, gate, std::integral_constant<GateOrder, GateOrder::kGateThenNorm>{});
      }
    };
    if (in.options.gate_activation == Activation::kSiLU) {
      by_order(std::integral_constant<Activation, Activation::kSiLU>{});
    } else {
      by_order(std::integral_constant<Activation, Activation::kSigmoid>{});
    }
  });
}

}  // namespace

void gated_rms_norm_fwd(const Context& ctx, const GatedNormInputs& in, double eps, const Tensor& y,
                        const Tensor& rstd) {
  const int64_t width = in.x.dim(-1);
  const Rows x_rows(in.x, width), gate_rows(in.gate, width);
  dispatch(in, [&](auto zero, auto gate, auto order) {
    using T = decltype(zero);
    const Weight<T> w(in.weight, width);
    T* squares = rstd.data<T>();  // until they are reciprocal roots
    const auto square = [&](int64_t r) {
      squares[r] = square_row<decltype(gate)::value, decltype(order)::value>(
          width, x_rows.at<T>(r), gate_rows.at<T>(r), y.data<T>() + r * width);
    };
    const auto normalise = [&](int64_t r) {
      const T *xr = x_rows.at<T>(r), *wr = w.data + (r % w.groups) * width;
      T* yr = y.data<T>() + r * width;
      const T scale = T(1) / std::sqrt(squares[r] / T(whole_width(in)) + T(eps));
      rstd.data<T>()[r] = scale;
      for (int64_t i = 0; i < width; ++i) yr[i] = xr[i] * yr[i] * (scale * wr[i]);
    };
    reduce_rows(ctx, rstd.numel(), kRowsPerBlock, square, in.options.part, rstd, normalise);
  });
}

void gated_rms_norm_bwd(Context& ctx, const Tensor& dy, const GatedNormInputs& in, const Tensor& rstd,
                        const GatedNormGradients& grads) {
  const int64_t width = in.x.dim(-1);
  const Rows x_rows(in.x, width), gate_rows(in.gate, width), dy_rows(dy, width);
  dispatch(in, [&](auto zero, auto gate, auto order) {
    using T = decltype(zero);
    const Weight<T> w(in.weight, width);
    const Tensor dots = Tensor::empty(ctx, {rstd.numel()}, in.x.dtype());
    const auto dot = [&](int64_t r) {
      dots.data<T>()[r] = backward_dot<decltype(gate)::value>(
          width, dy_rows.at<T>(r), x_rows.at<T>(r), gate_rows.at<T>(r), w.data + (r % w.groups) * width,
          grads.dx.data<T>() + r * width, grads.dgate.data<T>() + r * width);
    };
    const DimPart& part = in.options.part;
    if (part.divided()) {
      parallel_for(ctx, rstd.numel(), dot);
      part.sum(dots);
    }
    std::vector<T> dw(size_t(w.groups * width));
    column_sums<T>(
        ctx, rstd.numel() / w.groups, w.groups * width, dw.data(),
        [&](int64_t row, T* sums) {
          for (int64_t g = 0; g < w.groups; ++g) {
            const int64_t r = row * w.groups + g;
            if (!part.divided()) dot(r);
            const T scale = rstd.data<T>()[r], mean = dots.data<T>()[r] * scale * scale / T(whole_width(in));
            backward_row<decltype(order)::value>(width, dy_rows.at<T>(r), x_rows.at<T>(r), w.data + g * width,
                                                 scale, mean, grads.dx.data<T>() + r * width,
                                                 grads.dgate.data<T>() + r * width, sums + g * width);
          }
        },
        /*min_rows=*/16);
    if (grads.dweight.defined()) std::copy(dw.begin(), dw.end(), grads.dweight.data<T>());
  });
}

}  // namespace spanwise::cpu
