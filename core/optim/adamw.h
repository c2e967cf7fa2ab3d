#pragma once
// AdamW (Loshchilov & Hutter, arXiv 1711.05101) on flat spans:
//
//   g' = grad_scale · g
//   m ← β1 m + (1 − β1) g';   v ← β2 v + (1 − β2) g'²
//   p ← (1 − lr · weight_decay) p − lr · (m / (1 − β1^step)) / (sqrt(v / (1 − β2^step)) + eps)
//
// The parameters are their own master weights: T is float or double, and nothing is rounded to a narrower
// type. Bias corrections and factors are computed in double and rounded once. Elements are independent, so
// any split of a span, over ranks or threads, gives the same bits.

#include <cstdint>

#include "core/context.h"

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

template <class T>
void adamw_step(Context& ctx, const AdamWSpan<T>& span, const AdamWHyper& hyper);

}  // namespace spanwise
