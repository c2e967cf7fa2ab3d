#include "core/ops/cuda/delta/call.h"

#include "core/ops/cuda/common/alignment.h"
#include "core/shared_upload.h"

namespace spanwise::cuda::delta {

AlignedRows::AlignedRows(Context& ctx, const Tensor& t) : tensor_(t) {
  if (!t.defined()) return;
  if (!heads_are_aligned(t)) {
    tensor_ = Tensor::empty(ctx, t.shape(), t.dtype());
    tensor_.copy_from(t);
  }
}

DeviceChunks::DeviceChunks(Context& ctx, const LinearStateCall& call, SegmentSet which, bool has_dfinal)
    : segments(call.chunks.select(which)) {
  const std::vector<Chunk> chunks = device_chunks(call, has_dfinal);
  const std::vector<int> selected = chunks_of(segments);
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
