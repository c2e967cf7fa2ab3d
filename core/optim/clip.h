#pragma once
// Clipping by the global norm of all gradients (Pascanu et al., arXiv 1211.5063): each rank sums the squares
// of its spans, the sums are reduced, and AdamW applies the factor.

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace spanwise {

/// Σ x², accumulated in double. The order of the sum depends on the span's size alone, not on the threads.
/// T is float or double. Host memory.
template <class T>
double squared_norm(Context& ctx, std::span<const T> values);

/// Σ x² over many tensors, which are contiguous and lie on ctx's device (on a GPU F32). In double and in an
/// order that their sizes determine. F64 [1], on the device; nothing waits for it.
Tensor squared_norm(Context& ctx, const std::vector<Tensor>& parts);

namespace cpu {
void squared_norm(Context& ctx, const std::vector<Tensor>& parts, const Tensor& sum);
}  // namespace cpu
namespace cuda {
void squared_norm(Context& ctx, const std::vector<Tensor>& parts, const Tensor& sum);
}  // namespace cuda

/// The factor that scales a gradient of norm `norm` down to max_norm: 1 if it is no larger, or if max_norm is
/// 0 (no clipping). The norm must be finite: what to do with a step that is not, the caller decides.
double clip_scale(double norm, double max_norm);

}  // namespace spanwise
