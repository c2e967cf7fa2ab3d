#pragma once
// The output projection and cross entropy in one op, in chunks of rows, so that the logits are never stored
// whole:
//
//   z_i = W x_i;   loss = loss_scale · Σ_{i: label_i ≠ −100} (log Σ_v exp z_iv − z_i,label_i)
//   dz_i = loss_scale · (softmax(z_i) − onehot(label_i));   dx_i = W ᵀ dz_i;   dW = Σ_i dz_i x_iᵀ
//
//   x [..., D]   weight [vocab, D]   labels: one a row of x   loss [1]
//
// A tape that saves forms dx and dW in the forward, chunk by chunk, while a chunk's logits exist; backward
// multiplies them by the incoming scalar. So it holds dx [..., D] and a temporary dW [vocab, D], and saves
// nothing else. Memory of the logits: chunk_rows · vocab. The loss is summed in double. x may be a column
// block. x and weight are of one dtype, and so are the logits; loss and dW are of accumulation_dtype. Nothing
// waits for a GPU: the loss stays there. A label outside [0, vocab) other than −100 is a UserError.
//
// With a DimPart the weight holds rows [begin, begin + its rows) of the vocabulary and nobody forms whole
// logits: a chunk's maxima are reduced [n], then its sums of exponentials and target logits [2, n]. The loss
// is the whole one on every rank; dx is this part's term of the sum that is the gradient, dW its own rows.
//
// Work (core/work.h) of a row, whatever its label: 2 D vocab, and as much for dx and for dW.

#include <vector>

#include "core/autograd.h"
#include "core/ops/dim_part.h"

namespace spanwise {

constexpr int32_t kIgnoredLabel = -100;

struct CrossEntropyOptions {
  double loss_scale = 1.0;  ///< 1 / number of targets gives the mean
  int64_t chunk_rows = 0;   ///< 0: default_chunk_rows
  DimPart part{};
};

struct CrossEntropyResult {
  Var loss;             ///< 0, with zero gradients, when there are no targets
  int64_t num_targets;  ///< labels other than kIgnoredLabel
};

CrossEntropyResult linear_cross_entropy(Tape& tape, const Var& x, const Var& weight,
                                        const std::vector<int32_t>& labels,
                                        const CrossEntropyOptions& options = {});

/// Rows whose logits exist at a time: on a GPU as many as fill 2^28 logits, so that the products run at full
/// rate and dW is read and written seldom; on the CPU what a cache holds.
int64_t default_chunk_rows(Device device, int64_t vocab);

// Tensor level: dx and dweight are written (=) where they are defined.
struct CrossEntropyGrads {
  Tensor dx, dweight;
};
/// loss [1] (=) the scaled sum.
void linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor& loss);
/// t *= factor [1], which lies on t's device and is of accumulation_dtype; at once where it is 1.
void scale_in_place(const Context& ctx, const Tensor& t, const Tensor& factor);

namespace cpu {
void linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor& loss);
void scale_in_place(const Context& ctx, const Tensor& t, const Tensor& factor);
}  // namespace cpu
namespace cuda {
void linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor& loss);
void scale_in_place(const Context& ctx, const Tensor& t, const Tensor& factor);
}  // namespace cuda

}  // namespace spanwise
