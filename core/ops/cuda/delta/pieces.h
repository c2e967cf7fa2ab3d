#pragma once
// Where segments x heads do not fill the GPU, long segments are scanned in pieces that run side by side. A
// piece acts on the state as an affine map, S_out = M S_in + B (core/ops/span.h). Summaries (SummaryArgs)
// give every piece's B from zero and M from the identity; a fold of those gives the states that the pieces
// start from; then all pieces are scanned as segments are. Backward the same from right to left: D from zero,
// folded with forward's M transposed. Nothing depends on the data but the time of the summaries.
//
// The piece that comes last in a direction is not summarised. Backward the first one starts from the gradient
// that the segment really ends with; forward the fold applies its M. The same pieces serve all passes of a
// call.

#include "core/ops/cuda/delta/chunks.cuh"
#include "core/ops/cuda/delta/cuts.h"

namespace spanwise::cuda::delta {

/// Pieces of one segment to fold.
struct FoldRange {
  int first, last;
  int start;       ///< row of the state that comes into it; −1: none, or its first piece's summary has it
  int end;         ///< row of what leaves it; −1: not wanted
  int transition;  ///< row of the product of all M; −1: not wanted
};

struct FoldArgs {
  const FoldRange* ranges;
  int num_ranges, HV, K, V;
  Direction direction;
  const float* start;        ///< [rows, HV, K, V]
  const float* own;          ///< [pieces, HV, K, V]: B or D
  const float* transitions;  ///< [pieces, HV, K, K]
  const float* passes;       ///< [pieces, HV]: 0 where M is zero and not in `transitions`
  float* states;             ///< [pieces, HV, K, V], written but for the first piece: what comes into it
  float *ends, *products;    ///< [rows, HV, K, ·]; products in forward direction only
};
void launch_fold(cudaStream_t stream, const FoldArgs& args);

}  // namespace spanwise::cuda::delta
