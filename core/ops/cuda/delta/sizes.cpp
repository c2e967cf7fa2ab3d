#include "core/ops/cuda/delta/sizes.h"

#include <algorithm>

#include "core/ops/cuda/common/ceil_div.h"
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

std::vector<Tensor> allocate_saved(Context& ctx, const LinearStateCall& call, int count) {
  const int64_t num_pieces = int64_t(cuts_of(call).pieces().size());
  const std::vector<TensorSize> sizes = saved_sizes(shape_of(call), call.chunks, num_pieces);
  std::vector<Tensor> tensors;
  for (int i = 0; i < count; ++i) {
    const bool of_pieces = i == kPieceStates || i == kTransitions || i == kPasses;
    tensors.push_back(of_pieces && num_pieces == 0 ? Tensor()
                                                   : Tensor::empty(ctx, sizes[i].shape, sizes[i].dtype));
  }
  return tensors;
}

void check_supported(const LinearStateCall& call) {
  const int64_t K = call.q.dim(3), V = call.v.dim(3);
  SPANWISE_CHECK(gpu_limits::kGatedDeltaHeads.takes(DType::kBF16, K, V),
                 "gated_delta on a GPU takes heads of {} channels, got {} and {}",
                 gpu_limits::kGatedDeltaHeads.taken(DType::kBF16), K, V);
  SPANWISE_CHECK(
      call.chunks.max_length() <= kChunk,
      "gated_delta in BF16 on a GPU computes chunks of at most {} tokens, got {}; lower chunk_size", kChunk,
      call.chunks.max_length());
}

std::vector<Chunk> device_chunks(const LinearStateCall& call, bool has_dfinal) {
  const std::vector<ChunkList::Chunk>& list = call.chunks.chunks();
  const int64_t states = call.chunks.num_states();
  std::vector<Chunk> chunks;
  for (const ChunkList::Chunk& c : list) chunks.push_back({int(c.begin), int(c.length), int(c.state), -1});
  for (const ChunkList::SegmentChunks& s : call.chunks.select(SegmentSet::kAll)) {
    if (s.continues && call.initial_state.defined()) chunks[s.first].state_in = int(states + s.row);
    for (int64_t i = s.first; i + 1 < s.last; ++i) chunks[i].state_out = chunks[i + 1].state_in;
    if (s.ends_row && has_dfinal) chunks[s.last - 1].state_out = int(states + s.row);
  }
  return chunks;
}

std::vector<int> chunks_of(const std::vector<ChunkList::SegmentChunks>& segments) {
  std::vector<int> selected;
  for (const ChunkList::SegmentChunks& s : segments) {
    for (int64_t i = s.first; i < s.last; ++i) selected.push_back(int(i));
  }
  return selected;
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
  const SegmentCuts cuts = cuts_of(s, chunks);
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
