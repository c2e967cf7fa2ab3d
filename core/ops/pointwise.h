#pragma once
// Elementwise ops on operands of equal shape; nothing is broadcast. Operands may be column blocks; results
// are contiguous. Any float dtype, all equal.

#include "core/autograd.h"

namespace spanwise {

/// a + b. Saves nothing.
Var add(Tape& tape, const Var& a, const Var& b);
/// a ∘ b. Saves a and b.
Var multiply(Tape& tape, const Var& a, const Var& b);

enum class Activation {
  kNone,        ///< x
  kSiLU,        ///< x σ(x), also called swish
  kSigmoid,     ///< σ(x) = 1 / (1 + e^−x)
  kReLU,        ///< max(x, 0)
  kEluPlusOne,  ///< x + 1 for x > 0, else e^x: the positive feature map of arXiv 2006.16236
};
/// Saves x. kNone returns x itself.
Var activation(Tape& tape, const Var& x, Activation kind);

namespace cpu {
// All write (=) contiguous outputs.
void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out);
void multiply(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out);
void activation_fwd(const Context& ctx, const Tensor& x, Activation kind, const Tensor& y);
/// dx = dy ∘ φ'(x)
void activation_bwd(const Context& ctx, const Tensor& dy, const Tensor& x, Activation kind, const Tensor& dx);
}  // namespace cpu
namespace cuda {
void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out);
void multiply(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out);
void activation_fwd(const Context& ctx, const Tensor& x, Activation kind, const Tensor& y);
void activation_bwd(const Context& ctx, const Tensor& dy, const Tensor& x, Activation kind, const Tensor& dx);
}  // namespace cuda

}  // namespace spanwise
