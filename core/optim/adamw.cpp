#include "core/optim/adamw.h"

#include <cmath>

#include "core/dispatch.h"
#include "core/ops/convert.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/ops/cuda/common/ceil_div.h"
#include "core/optim/clip.h"
#include "core/optim/cuda/tables.h"

namespace spanwise {

namespace work {

constexpr Moves adamw_table;
Work adamw_step(const Context&, const AdamW& adamw, const std::vector<Tensor>& grads, const AdamWHyper&,
                const GradientClip&) {
  Work work;
  for (size_t i = 0; i < grads.size(); ++i) {
    const AdamWTensors& span = adamw.spans()[i];
    work.bytes += bytes_of(grads[i], span.copy) + 2 * bytes_of(span.param, span.m, span.v);
  }
  return work;
}

}  // namespace work

namespace dry {

Tensor adamw_table(Context& ctx, const std::vector<AdamWTensors>& spans) {
  if (ctx.device() == Device::kCPU) return {};
  int64_t blocks = 0;
  for (const AdamWTensors& span : spans) blocks += cuda::ceil_div(span.param.numel(), cuda::kAdamWBlockElems);
  return Tensor::empty(ctx, {blocks * cuda::kAdamWBlockBytes}, DType::kU8);
}

void adamw_step(Context& ctx, const AdamW&, const std::vector<Tensor>&, const AdamWHyper&,
                const GradientClip& clip) {
  if (ctx.device() == Device::kCUDA && clip.squared_norm.defined()) Tensor::empty(ctx, {1}, DType::kF32);
}

}  // namespace dry

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

bool fits(const AdamWTensors& span, const Tensor& t, DType dtype) {
  return t.defined() && t.contiguous() && t.numel() == span.param.numel() && t.dtype() == dtype;
}

void check_span(const AdamWTensors& span) {
  SPANWISE_CHECK(span.param.defined() && span.param.contiguous(), "an optimizer's span has no parameters");
  const DType dtype = span.param.dtype();
  SPANWISE_CHECK(fits(span, span.m, dtype) && fits(span, span.v, dtype),
                 "moments of {} parameters of {} must be contiguous, as many and of that dtype",
                 span.param.numel(), name_of(dtype));
  SPANWISE_CHECK(!span.copy.defined() || fits(span, span.copy, dtype) || fits(span, span.copy, DType::kBF16),
                 "the copy of {} parameters of {} must be contiguous, as many, and BF16 or of that dtype",
                 span.param.numel(), name_of(dtype));
}

void check_grads(const std::vector<AdamWTensors>& spans, const std::vector<Tensor>& grads) {
  SPANWISE_CHECK(grads.size() == spans.size(), "{} gradients for {} spans", grads.size(), spans.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    const Tensor& param = spans[i].param;
    SPANWISE_CHECK(fits(spans[i], grads[i], param.dtype()),
                   "the gradient of {} parameters of {} must be contiguous, as many and of that dtype",
                   param.numel(), name_of(param.dtype()));
  }
}

}  // namespace

AdamWFactors::AdamWFactors(const AdamWHyper& hyper) {
  check_hyper(hyper);
  beta1 = hyper.beta1;
  beta2 = hyper.beta2;
  one_minus_beta1 = 1.0 - hyper.beta1;
  one_minus_beta2 = 1.0 - hyper.beta2;
  keep = 1.0 - hyper.lr * hyper.weight_decay;
  rate = hyper.lr / (1.0 - std::pow(hyper.beta1, double(hyper.step)));
  v_root = 1.0 / std::sqrt(1.0 - std::pow(hyper.beta2, double(hyper.step)));
  eps = hyper.eps;
}

template <class T>
void adamw_step(Context& ctx, const AdamWSpan<T>& span, const AdamWHyper& hyper) {
  const AdamWFactors f(hyper);
  const T beta1 = T(f.beta1), beta2 = T(f.beta2), eps = T(f.eps), scale = T(hyper.grad_scale);
  const T one_minus_beta1 = T(f.one_minus_beta1), one_minus_beta2 = T(f.one_minus_beta2);
  const T keep = T(f.keep), rate = T(f.rate), v_root = T(f.v_root);
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

AdamW::AdamW(Context& ctx, std::vector<AdamWTensors> spans) : ctx_(ctx), spans_(std::move(spans)) {
  for (const AdamWTensors& span : spans_) check_span(span);
  table_ = SPANWISE_DISPATCH(ctx, adamw_table, ctx, spans_);
}

void AdamW::step(const std::vector<Tensor>& grads, const AdamWHyper& hyper, const GradientClip& clip) const {
  check_grads(spans_, grads);
  SPANWISE_CHECK(!clip.squared_norm.defined() ||
                     (clip.squared_norm.numel() == 1 && clip.squared_norm.dtype() == DType::kF64),
                 "the squared norm is one F64 number, got {} {}", name_of(clip.squared_norm.dtype()),
                 clip.squared_norm.shape().str());
  SPANWISE_CHECK(clip.max_norm >= 0, "max_norm={} must be positive, or 0 for no clipping", clip.max_norm);
  SPANWISE_DISPATCH(ctx_, adamw_step, ctx_, *this, grads, hyper, clip);
}

namespace cpu {

Tensor adamw_table(Context&, const std::vector<AdamWTensors>&) {
  return {};
}

void adamw_step(Context& ctx, const AdamW& adamw, const std::vector<Tensor>& grads, const AdamWHyper& hyper,
                const GradientClip& clip) {
  AdamWHyper of_span = hyper;
  if (clip.squared_norm.defined()) {
    const double norm = std::sqrt(*clip.squared_norm.data<double>());
    if (!std::isfinite(norm)) return;
    of_span.grad_scale *= clip_scale(norm, clip.max_norm);
  }
  for (size_t i = 0; i < grads.size(); ++i) {
    const AdamWTensors& span = adamw.spans()[i];
    of_span.weight_decay = span.weight_decay ? hyper.weight_decay : 0;
    dispatch_float(span.param.dtype(), [&](auto zero) {
      using T = decltype(zero);
      spanwise::adamw_step<T>(
          ctx,
          {span.param.data<T>(), grads[i].data<T>(), span.m.data<T>(), span.v.data<T>(), span.param.numel()},
          of_span);
    });
    if (!span.copy.defined()) continue;
    if (span.copy.dtype() == span.param.dtype()) {
      span.copy.copy_from(span.param);
    } else {
      cpu::convert(ctx, span.param, span.copy);
    }
  }
}

}  // namespace cpu

}  // namespace spanwise
