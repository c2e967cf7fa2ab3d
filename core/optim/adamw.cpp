#include "core/optim/adamw.h"

#include <cmath>

#include "core/check.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise {

namespace {

constexpr int64_t kElemsPerBlock = 1 << 14;

void check_hyper(const AdamWHyper& h) {
  SPANWISE_CHECK(h.step >= 1, "step={} counts from 1", h.step);
  SPANWISE_CHECK(h.beta1 >= 0 && h.beta1 < 1 && h.beta2 >= 0 && h.beta2 < 1,
                 "beta1={} and beta2={} must lie in [0, 1)", h.beta1, h.beta2);
  SPANWISE_CHECK(h.lr >= 0 && h.eps > 0 && h.weight_decay >= 0,
                 "lr={} and weight_decay={} must not be negative, eps={} must be positive", h.lr,
                 h.weight_decay, h.eps);
}

}  // namespace

template <class T>
void adamw_step(Context& ctx, const AdamWSpan<T>& span, const AdamWHyper& hyper) {
  check_hyper(hyper);
  const double m_correction = 1.0 - std::pow(hyper.beta1, double(hyper.step));
  const double v_correction = 1.0 - std::pow(hyper.beta2, double(hyper.step));
  const T beta1 = T(hyper.beta1), beta2 = T(hyper.beta2), eps = T(hyper.eps), scale = T(hyper.grad_scale);
  const T one_minus_beta1 = T(1.0 - hyper.beta1), one_minus_beta2 = T(1.0 - hyper.beta2);
  const T keep = T(1.0 - hyper.lr * hyper.weight_decay), rate = T(hyper.lr / m_correction);
  const T v_root = T(1.0 / std::sqrt(v_correction));
  cpu::parallel_blocks(ctx, span.n, kElemsPerBlock, [&](int64_t begin, int64_t end) {
    T *p = span.param, *m = span.m, *v = span.v;
    const T* grad = span.grad;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const T g = scale * grad[i];
      m[i] = beta1 * m[i] + one_minus_beta1 * g;
      v[i] = beta2 * v[i] + one_minus_beta2 * (g * g);
      p[i] = keep * p[i] - rate * m[i] / (std::sqrt(v[i]) * v_root + eps);
    }
  });
}

template void adamw_step(Context&, const AdamWSpan<float>&, const AdamWHyper&);
template void adamw_step(Context&, const AdamWSpan<double>&, const AdamWHyper&);

}  // namespace spanwise
