#pragma once
// Rotary position embedding (Su et al., arXiv 2104.09864), half-split as Llama has it: the pair of
// dimensions (i, i + R/2), i < R/2, of every head turns by the angle p·θ^(−2i/R), p the token's position:
//
//   y_i = x_i cos − x_{i+R/2} sin;   y_{i+R/2} = x_{i+R/2} cos + x_i sin;   dimensions from R on are copied
//   dx: dy turned by the negative angle
//
//   x, y [B, T, H, D]   positions [B·T]: document-local, SequenceLayout::positions()   R = rotary_dim ≤ D
//
// Cosines and sines are computed in double for each distinct position and rounded once to the dtype of x;
// that table is what is saved. x may be a column block. F32 or F64.

#include <vector>

#include "core/autograd.h"

namespace spanwise {

/// rotary_dim 0: the whole head.
Var rope(Tape& tape, const Var& x, const std::vector<int64_t>& positions, double theta,
         int64_t rotary_dim = 0);

// Tensor level.
struct RopeTable {
  Tensor cos_sin;            ///< [distinct positions, R]: R/2 cosines, then R/2 sines
  std::vector<int32_t> row;  ///< [B·T] a token's row of cos_sin
};
RopeTable rope_table(Context& ctx, const std::vector<int64_t>& positions, double theta, int64_t rotary_dim,
                     DType dtype);

enum class RopeDirection { kForward, kBackward };
Tensor rope_apply(Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction);

namespace cpu {
/// frequencies [R/2]: angle per position.
void rope_table(const Context& ctx, const std::vector<int64_t>& distinct_positions,
                const std::vector<double>& frequencies, const Tensor& cos_sin);
void rope_apply(const Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction,
                const Tensor& y);
}  // namespace cpu

}  // namespace spanwise
