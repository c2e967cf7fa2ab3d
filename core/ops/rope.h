#pragma once
// Rotary position embedding (Su et al., arXiv 2104.09864), half-split as Llama has it: the pair of
// dimensions (i, i + R/2), i < R/2, of every head turns by the angle p·θ^(−2i/R), p the token's position:
//
//   y_i = x_i cos − x_{i+R/2} sin;   y_{i+R/2} = x_{i+R/2} cos + x_i sin;   dimensions from R on are copied
//   dx: dy turned by the negative angle
//
//   x, y [B, T, H, D]   positions [B·T]: document-local, SequenceLayout::positions()   R = rotary_dim ≤ D
//
// Angles are reduced in double. On the CPU, cosines and sines of each distinct position are rounded once to
// the dtype of x and kept; a GPU takes them per token, in float, inside the kernel. What a batch needs is
// made once for all its layers (Context::attached). x may be a column block. Any float dtype.

#include <memory>
#include <mutex>
#include <vector>

#include "core/autograd.h"

namespace spanwise {

/// rotary_dim 0: the whole head.
Var rope(Tape& tape, const Var& x, const std::vector<int64_t>& positions, double theta,
         int64_t rotary_dim = 0);

// Tensor level.
struct RopeTable {
  std::vector<int64_t> positions;  ///< [B·T] a token's
  double theta;
  int64_t rotary_dim;
  DType dtype;  ///< of x
  // CPU
  Tensor cos_sin;            ///< [distinct positions, R]: R/2 cosines, then R/2 sines
  std::vector<int32_t> row;  ///< [B·T] a token's row of cos_sin
  // GPU
  Tensor frequencies;       ///< [R/2] F64: half turns per position, θ^(−2i/R) / π
  Tensor device_positions;  ///< [B·T] I32
};

/// The tables that a Context used last.
class RopeTables {
 public:
  explicit RopeTables(Context& ctx) : ctx_(ctx) {}
  std::shared_ptr<const RopeTable> get(const std::vector<int64_t>& positions, double theta,
                                       int64_t rotary_dim, DType dtype);

 private:
  std::shared_ptr<const RopeTable> make(const std::vector<int64_t>& positions, double theta,
                                        int64_t rotary_dim, DType dtype) const;
  Context& ctx_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<const RopeTable>> tables_;  // newest last
};

enum class RopeDirection { kForward, kBackward };
Tensor rope_apply(Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction);

namespace cpu {
/// frequencies [R/2]: angle per position.
void rope_table(const Context& ctx, const std::vector<int64_t>& distinct_positions,
                const std::vector<double>& frequencies, const Tensor& cos_sin);
void rope_apply(const Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction,
                const Tensor& y);
}  // namespace cpu
namespace cuda {
void rope_apply(const Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction,
                const Tensor& y);
}  // namespace cuda

}  // namespace spanwise
