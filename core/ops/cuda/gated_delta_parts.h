#pragma once
// Where segments x heads do not fill the GPU, long segments are scanned in parts that run side by side. A
// part acts on the state as an affine map, S_out = M S_in + B (core/ops/span.h): a first scan, of states
// only, gives every part's B from zero and M from the identity; folding those gives the states that the parts
// start from; then all parts are scanned as segments are. Backward the same from right to left with Mᵀ. The
// result does not depend on the data, only on shapes and the GPU's number of multiprocessors.

#include "core/ops/cuda/gated_delta_chunks.cuh"
#include "core/tensor.h"

namespace spanwise::cuda::delta {

/// The parts of one segment, [first, last) in the order of tokens.
struct PartRange {
  int first, last;
  int initial, final;  ///< the segment's
};

struct PartPlan {
  /// Parts are segments here: `initial` and `final` are the part's own index.
  std::vector<Segment> parts;
  std::vector<PartRange> ranges;
  bool split() const { return parts.size() > ranges.size(); }
};

/// Cuts segments where that shortens the scan of `heads` value heads and K, V columns.
PartPlan plan_parts(const std::vector<Segment>& segments, int heads, int K, int V, int num_multiprocessors);

enum class FoldOrder { kForward, kBackward };

struct FoldArgs {
  const PartRange* ranges;
  int num_ranges, HV, K, V;
  FoldOrder order;
  const float* start;  ///< [rows, HV, K, V] or nullptr: the states that segments start from (end with)
  const float* own;    ///< [parts, HV, K, V]: B of every part, of a segment's first (last) with its start
  const float* transitions;  ///< [parts, HV, K, K]
  float* states;             ///< [parts, HV, K, V], written: what every part starts from (ends with)
};
void launch_fold(cudaStream_t stream, const FoldArgs& args);

}  // namespace spanwise::cuda::delta
