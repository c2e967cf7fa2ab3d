#include "core/ops/cuda/delta/sizes.h"

#include <algorithm>

#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/cuda/common/hopper.h"
#include "core/ops/cuda/delta/cuts.h"
#include "core/ops/gated_delta.h"

namespace spanwise::cuda {

namespace delta {

std::vector<TensorSize> saved_sizes(const LinearStateShape& s, const ChunkList& list, int64_t num_pieces) {
  const int64_t chunks = int64_t(list.chunks().size()), HV = s.value_heads, K = s.key_dim, V = s.value_dim;
  std::vector<TensorSize> sizes(kNumSaved);
  sizes[kTheta] = sizes[kScores] = {{chunks, HV, kChunk, kChunk}, DType::kBF16};
  sizes[kFactors] = {{chunks, HV, kFactorElems}, DType::kF32};
  sizes[kPieceStates] = {{num_pieces, HV, K, V}, DType::kF32};
  sizes[kTransitions] = {{num_pieces, HV, K, K}, DType::kF32};
  sizes[kPasses] = {{num_pieces, HV}, DType::kF32};
  sizes[kStates] = {{list.num_states() + s.rows, HV, V, K}, DType::kBF16};
  sizes[kValues] = {{chunks, HV, kChunk, V}, DType::kBF16};
  return sizes;
}

TensorSize gate_gradient_partials(const LinearStateShape& s, const ChunkList& list) {
  const int64_t key_blocks = s.key_dim / key_columns(int(s.key_dim));
  return {{2, key_blocks, int64_t(list.chunks().size()), s.value_heads, kChunk}, DType::kF32};
}

}  // namespace delta

namespace {

// Forward and retreat have the states that the pieces start from; retreat's dstates and Z, as large as what
// forward saved of those, stay while the gradients kernel runs. Of a row that is one segment all of backward
// comes after the exchange.
LinearStateBytes chunked_bytes(const LinearStateShape& s, const ChunkList& chunks) {
  using namespace delta;
  const SegmentCuts cuts(chunks, int(s.value_heads), int(s.key_dim), int(s.value_dim), s.token_decay,
                         kHopperProcessors);
  const std::vector<TensorSize> saved = saved_sizes(s, chunks, int64_t(cuts.pieces().size()));
  const int64_t starts = saved[kPieceStates].bytes(),
                retreated = saved[kStates].bytes() + saved[kValues].bytes(),
                sums = s.value_heads > s.key_heads ? 2 * value_head_gradient_bytes(s) : 0;
  LinearStateBytes bytes{.forward = starts};
  for (const TensorSize& size : saved) bytes.saved += size.bytes();
  bytes.backward = bytes.fold_bwd =
      retreated + std::max(starts, gate_gradient_partials(s, chunks).bytes() + sums);
  return bytes;
}

// Backward has dq, dk, dβ and dg of every 32 columns of V, and the states inside a chunk of every segment.
LinearStateBytes recurrent_bytes(const LinearStateShape& s, const ChunkList& chunks) {
  using namespace recurrent;
  const int64_t slabs = ceil_div(s.value_dim, kColumns),
                segments = int64_t(chunks.select(SegmentSet::kAll).size()), gates = s.token_decay ? 2 : 1;
  const int64_t partials = slabs * s.tokens() * s.value_heads * (2 * s.key_dim + gates),
                scratch = segments * s.value_heads * slabs * chunks.max_length() * rows_of_thread(s.key_dim) *
                          kThreads;
  const int64_t backward = (partials + scratch) * int64_t(sizeof(float));
  return {.saved = chunk_state_bytes(s, chunks), .backward = backward, .fold_bwd = backward};
}

}  // namespace

LinearStateBytes gated_delta_bytes(const LinearStateShape& shape, const ChunkList& chunks) {
  return shape.dtype == DType::kBF16 ? chunked_bytes(shape, chunks) : recurrent_bytes(shape, chunks);
}

}  // namespace spanwise::cuda
