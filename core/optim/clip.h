#pragma once
// Clipping by the global norm of all gradients (Pascanu et al., arXiv 1211.5063): each rank sums the squares
// of its spans, the sums are reduced, and AdamW applies the factor.

#include <cstdint>
#include <span>

#include "core/context.h"

namespace spanwise {

/// Σ x², accumulated in double. The order of the sum depends on the span's size alone, not on the threads.
/// T is float or double.
template <class T>
double squared_norm(Context& ctx, std::span<const T> values);

/// The factor that scales a gradient of norm `norm` down to max_norm: 1 if it is no larger, or if max_norm is
/// 0 (no clipping). The norm must be finite: what to do with a step that is not, the caller decides.
double clip_scale(double norm, double max_norm);

}  // namespace spanwise
