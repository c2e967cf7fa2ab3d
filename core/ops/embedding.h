#pragma once
// Token embedding:
//
//   y_i = W[token_i];   dW[v] += Σ_{i: token_i = v} dy_i
//
//   tokens: numel(leading) ids   weight [vocab, D]   y [leading..., D]
//
// Saves the ids. dW is added in the order of the tokens, whatever the thread count, directly into the
// weight's gradient. An id outside [0, vocab) is a UserError. Any float dtype; dW of its accumulation_dtype.
//
// With a DimPart the weight holds rows [begin, begin + its rows) of the vocabulary; ids of other rows give
// zeros, so that the sum over the parts is y.

#include <vector>

#include "core/autograd.h"
#include "core/ops/dim_part.h"

namespace spanwise {

/// leading: usually {B, T}.
Var embedding(Tape& tape, const std::vector<int32_t>& tokens, const Shape& leading, const Var& weight,
              const DimPart& part = {});

// Tensor level. Ids outside the weight's rows give zeros and no gradient.
Tensor embedding_fwd(Context& ctx, const std::vector<int32_t>& tokens, const Shape& leading,
                     const Tensor& weight);
/// Writes (=) or adds to (+=) the target.
void embedding_bwd(Context& ctx, const Tensor& dy, const std::vector<int32_t>& tokens,
                   const Var::GradTarget& dweight);

namespace cpu {
void embedding_fwd(const Context& ctx, const std::vector<int32_t>& tokens, const Tensor& weight,
                   const Tensor& y);
void embedding_bwd(const Context& ctx, const Tensor& dy, const std::vector<int32_t>& tokens,
                   const Tensor& dweight, bool accumulate);
}  // namespace cpu
namespace cuda {
void embedding_fwd(Context& ctx, const std::vector<int32_t>& tokens, const Tensor& weight, const Tensor& y);
void embedding_bwd(Context& ctx, const Tensor& dy, const std::vector<int32_t>& tokens, const Tensor& dweight,
                   bool accumulate);
}  // namespace cuda

}  // namespace spanwise
