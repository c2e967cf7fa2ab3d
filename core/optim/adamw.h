#pragma once
// AdamW (Loshchilov & Hutter, arXiv 1711.05101) on flat spans:
//
//   g' = grad_scale · clip · g
//   m ← β1 m + (1 − β1) g';   v ← β2 v + (1 − β2) g'²
//   p ← (1 − lr · weight_decay) p − lr · (m / (1 − β1^step)) / (sqrt(v / (1 − β2^step)) + eps)
//
// Parameters are their own master weights, F32 or F64; where a model reads another copy of them (BF16), it is
// written in the same pass. Bias corrections and factors are computed in double and rounded once. Elements
// are independent, so any split of a span, over ranks or threads, gives the same bits.
//
// clip = min(1, max_norm / ‖g‖) is found on the device that holds the norm, so that the host does not wait
// for it; where the norm is not finite nothing at all is changed.

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace spanwise {

template <class T>
struct AdamWSpan {
  T* param;
  const T* grad;
  T *m, *v;  ///< first and second moment, zero before step 1
  int64_t n;
};

struct AdamWHyper {
  double lr;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.0;
  int64_t step;             ///< counts from 1
  double grad_scale = 1.0;  ///< averaging and clipping in one factor
};

struct GradientClip {
  Tensor squared_norm{};  ///< F64 [1] (core/optim/clip.h); undefined: no clipping
  double max_norm = 0;    ///< 0: no clipping, only the check that the norm is finite
};

/// Host memory; T is float or double.
template <class T>
void adamw_step(Context& ctx, const AdamWSpan<T>& span, const AdamWHyper& hyper);

/// Contiguous tensors of equal size; gradients come with every step. On a GPU F32, but `copy`.
struct AdamWTensors {
  Tensor param, m, v;
  Tensor copy{};  ///< BF16 or of param's dtype: what the model reads; undefined: param itself
  bool weight_decay = true;
};

/// Many spans in one pass: one kernel on a GPU for each 128 of them.
class AdamW {
 public:
  AdamW(Context& ctx, std::vector<AdamWTensors> spans);
  /// `grads`: one a span, as large and of param's dtype; of this step, as their memory comes and goes.
  void step(const std::vector<Tensor>& grads, const AdamWHyper& hyper, const GradientClip& clip = {}) const;

  const std::vector<AdamWTensors>& spans() const { return spans_; }
  /// On a GPU: where the kernel's blocks find their elements.
  const Tensor& table() const { return table_; }

 private:
  Context& ctx_;
  std::vector<AdamWTensors> spans_;
  Tensor table_;
};

namespace cpu {
Tensor adamw_table(Context& ctx, const std::vector<AdamWTensors>& spans);
void adamw_step(Context& ctx, const AdamW& spans, const std::vector<Tensor>& grads, const AdamWHyper& hyper,
                const GradientClip& clip);
}  // namespace cpu
namespace cuda {
Tensor adamw_table(Context& ctx, const std::vector<AdamWTensors>& spans);
void adamw_step(Context& ctx, const AdamW& spans, const std::vector<Tensor>& grads, const AdamWHyper& hyper,
                const GradientClip& clip);
}  // namespace cuda

/// The factors of the formula above.
struct AdamWFactors {
  explicit AdamWFactors(const AdamWHyper& hyper);
  double beta1, beta2, one_minus_beta1, one_minus_beta2;
  double keep;    ///< 1 − lr · weight_decay
  double rate;    ///< lr / (1 − β1^step)
  double v_root;  ///< 1 / sqrt(1 − β2^step)
  double eps;
};

}  // namespace spanwise
