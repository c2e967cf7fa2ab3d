#include "core/ops/cuda/delta/call.h"

#include "core/ops/cuda/common/rows.cuh"
#include "core/ops/gpu_limits.h"
#include "core/shared_upload.h"

namespace spanwise::cuda::delta {

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

SegmentCuts cuts_of(const LinearStateCall& call) {
  return SegmentCuts(call.chunks, int(call.v.dim(2)), int(call.q.dim(3)), int(call.v.dim(3)),
                     call.log_decay.defined(), num_multiprocessors());
}

AlignedRows::AlignedRows(Context& ctx, const Tensor& t) : tensor_(t) {
  if (!t.defined()) return;
  if (reinterpret_cast<uintptr_t>(t.raw()) % 16 != 0 || row_stride() % 8 != 0) {
    tensor_ = Tensor::empty(ctx, t.shape(), t.dtype());
    tensor_.copy_from(t);
  }
}

DeviceChunks::DeviceChunks(Context& ctx, const LinearStateCall& call, SegmentSet which, bool has_dfinal)
    : segments(call.chunks.select(which)) {
  const std::vector<ChunkList::Chunk>& list = call.chunks.chunks();
  const int64_t states = call.chunks.num_states();
  std::vector<Chunk> chunks;
  for (const ChunkList::Chunk& c : list) chunks.push_back({int(c.begin), int(c.length), int(c.state), -1});
  for (const ChunkList::SegmentChunks& s : call.chunks.select(SegmentSet::kAll)) {
    if (s.continues && call.initial_state.defined()) chunks[s.first].state_in = int(states + s.row);
    for (int64_t i = s.first; i + 1 < s.last; ++i) chunks[i].state_out = chunks[i + 1].state_in;
    if (s.ends_row && has_dfinal) chunks[s.last - 1].state_out = int(states + s.row);
  }
  std::vector<int> selected;
  for (const ChunkList::SegmentChunks& s : segments) {
    for (int64_t i = s.first; i < s.last; ++i) selected.push_back(int(i));
  }
  num_chunks = int(chunks.size());
  num_selected = int(selected.size());
  chunks_ = shared_upload(ctx, chunks);
  if (num_selected > 0) selected_ = shared_upload(ctx, selected);
}

Problem CallOperands::problem(const DeviceChunks& chunks) const {
  return {.chunks = chunks.chunks(),
          .num_chunks = chunks.num_chunks,
          .H = int(call.q.dim(2)),
          .HV = int(call.v.dim(2)),
          .K = int(call.q.dim(3)),
          .V = int(call.v.dim(3)),
          .scale = float(call.scale),
          .q = q.rows(),
          .k = k.rows()};
}

}  // namespace spanwise::cuda::delta
