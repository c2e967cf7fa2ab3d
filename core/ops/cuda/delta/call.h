#pragma once
// What the bf16 kernels of gated_delta take from one call: tensors they save, aligned operands, chunks on the
// GPU.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/delta/chunks.cuh"
#include "core/ops/cuda/delta/pieces.h"

namespace spanwise::cuda::delta {

/// The rows of a tensor of `heads` x `width` a token, aligned for 16-byte accesses: a copy if they are not.
class AlignedRows {
 public:
  AlignedRows(Context& ctx, const Tensor& t);
  Rows rows() const {
    return tensor_.defined() ? Rows{pointer<bf16>(tensor_), row_stride()} : Rows{nullptr, 0};
  }

 private:
  int64_t row_stride() const { return tensor_.row_stride(tensor_.dim(2) * tensor_.dim(3)); }
  Tensor tensor_;
};

/// The chunks of a call on the GPU, and those that a kernel works on.
class DeviceChunks {
 public:
  DeviceChunks(Context& ctx, const LinearStateCall& call, SegmentSet which, bool has_dfinal);
  const Chunk* chunks() const { return static_cast<const Chunk*>(chunks_.raw()); }
  const int* selected() const { return static_cast<const int*>(selected_.raw()); }

  std::vector<ChunkList::SegmentChunks> segments;
  int num_chunks, num_selected;

 private:
  Tensor chunks_, selected_;
};

/// The operands of a call, ready for kernels.
struct CallOperands {
  CallOperands(Context& ctx, const LinearStateCall& call)
      : q(ctx, call.q), k(ctx, call.k), v(ctx, call.v), call(call) {
    check_supported(call);
  }
  Problem problem(const DeviceChunks& chunks) const;
  AlignedRows q, k, v;
  const LinearStateCall& call;
};

}  // namespace spanwise::cuda::delta
