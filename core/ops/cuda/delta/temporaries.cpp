// What gated_delta's kernels take on a GPU, in their order (gated_delta.cu, recurrent.cu), also in dry runs.
// Lists of segments that a summary or a fold reads, some KiB, are left out.

#include "core/dispatch.h"
#include "core/ops/cuda/common/alignment.h"
#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/cuda/delta/cuts.h"
#include "core/ops/cuda/delta/sizes.h"
#include "core/ops/gated_delta.h"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

using namespace delta;
using Temporaries = std::vector<Tensor>;

Tensor empty(Context& ctx, const TensorSize& size) {
  return Tensor::empty(ctx, size.shape, size.dtype);
}

/// CallOperands.
void hold_operands(Context& ctx, const LinearStateCall& call, Temporaries& held) {
  for (const Tensor* t : {&call.q, &call.k, &call.v}) {
    if (!heads_are_aligned(*t)) held.push_back(Tensor::empty(ctx, t->shape(), t->dtype()));
  }
}

/// DeviceChunks: false if there are none.
bool upload_chunks(Context& ctx, const LinearStateCall& call, SegmentSet which, bool has_dfinal) {
  const std::vector<ChunkList::SegmentChunks> segments = call.chunks.select(which);
  shared_upload(ctx, device_chunks(call, has_dfinal));
  if (!segments.empty()) shared_upload(ctx, chunks_of(segments));
  return !segments.empty();
}

/// The states that pieces start from, where one of the segments is cut.
void hold_piece_states(Context& ctx, const LinearStateCall& call, SegmentSet which, Temporaries& held) {
  const SegmentCuts cuts = cuts_of(call);
  bool cut = false;
  for (const ChunkList::SegmentChunks& s : call.chunks.select(which)) cut |= cuts.find(s.first) != nullptr;
  if (!cut) return;
  const int64_t num_pieces = int64_t(cuts.pieces().size());
  held.push_back(empty(ctx, saved_sizes(shape_of(call), call.chunks, num_pieces)[kPieceStates]));
}

void scan(Context& ctx, const LinearStateCall& call, SegmentSet which) {
  Temporaries held;
  hold_operands(ctx, call, held);
  if (upload_chunks(ctx, call, which, false)) hold_piece_states(ctx, call, which, held);
}

void forward(Context& ctx, const LinearStateCall& call, bool saves) {
  Temporaries held;
  if (!saves) held = allocate_saved(ctx, call, kStates);
  hold_operands(ctx, call, held);
  upload_chunks(ctx, call, SegmentSet::kAll, false);
  scan(ctx, call, SegmentSet::kAll);
}

void backward(Context& ctx, const LinearStateCall& call, SegmentSet which, bool has_dfinal) {
  Temporaries held;
  hold_operands(ctx, call, held);
  if (!upload_chunks(ctx, call, which, has_dfinal)) return;
  const LinearStateShape shape = shape_of(call);
  const int64_t num_pieces = int64_t(cuts_of(call).pieces().size());
  const std::vector<TensorSize> saved = saved_sizes(shape, call.chunks, num_pieces);
  {
    Temporaries of_retreat;
    hold_piece_states(ctx, call, which, of_retreat);
    held.push_back(empty(ctx, saved[kStates]));
    held.push_back(empty(ctx, saved[kValues]));
  }
  held.push_back(empty(ctx, gate_gradient_partials(shape, call.chunks)));
  if (shape.value_heads == shape.key_heads) return;
  for (int i = 0; i < 2; ++i)  // dq and dk
    held.push_back(
        Tensor::empty(ctx, {shape.rows, shape.length, shape.value_heads, shape.key_dim}, DType::kBF16));
}

void chunked(Context& ctx, const LinearStateCall& call, const LinearStageInput& input) {
  switch (input.stage) {
    case LinearStage::kForward:
      return forward(ctx, call, input.saves);
    case LinearStage::kBackward:
      return backward(ctx, call, SegmentSet::kAll, input.dfinal_state);
    case LinearStage::kSummarize: {
      Temporaries held;
      hold_operands(ctx, call, held);
      upload_chunks(ctx, call, SegmentSet::kAll, false);
      upload_chunks(ctx, call, SegmentSet::kEndingRow, false);
      return;
    }
    case LinearStage::kLocal:
      return scan(ctx, call, SegmentSet::kStarting);
    case LinearStage::kFold:
      return scan(ctx, call, SegmentSet::kContinuing);
    case LinearStage::kDstate: {
      Temporaries held;
      if (upload_chunks(ctx, call, SegmentSet::kContinuing, false)) hold_operands(ctx, call, held);
      return;
    }
    case LinearStage::kLocalBwd:
      return backward(ctx, call, SegmentSet::kInsideRow, input.dfinal_state);
    case LinearStage::kFoldBwd:
      return backward(ctx, call, SegmentSet::kEndingRow, input.dfinal_state);
  }
}

// Token by token, in F32. Backward has dq, dk, dβ and dg of every 32 columns of V, and the states inside a
// chunk of every segment.
void token_by_token(Context& ctx, const LinearStateCall& call, const LinearStageInput& input) {
  using namespace recurrent;
  Temporaries held;
  const auto upload_segments = [&](SegmentSet which) {
    const int64_t count = int64_t(call.chunks.select(which).size());
    if (count > 0) held.push_back(Tensor::empty(ctx, {count * kSegmentBytes}, DType::kU8));
    return count;
  };
  const auto backward = [&](SegmentSet which) {
    const int64_t segments = upload_segments(which);
    if (segments == 0) return;
    const LinearStateShape s = shape_of(call);
    const int64_t slabs = ceil_div(s.value_dim, kColumns), HV = s.value_heads;
    const auto hold = [&](const Shape& shape) { held.push_back(Tensor::empty(ctx, shape, DType::kF32)); };
    hold({slabs, s.tokens(), HV, s.key_dim});
    hold({slabs, s.tokens(), HV, s.key_dim});
    hold({slabs, s.tokens(), HV});
    if (input.dlog_decay) hold({slabs, s.tokens(), HV});
    hold({segments * HV * slabs, call.chunks.max_length(), rows_of_thread(s.key_dim), kThreads});
  };
  switch (input.stage) {
    case LinearStage::kForward:
      upload_segments(SegmentSet::kAll);
      return;
    case LinearStage::kBackward:
      return backward(SegmentSet::kAll);
    case LinearStage::kSummarize:
      if (!input.summary) return;
      upload_segments(SegmentSet::kEndingRow);
      upload_segments(SegmentSet::kPassing);
      return;
    case LinearStage::kLocal:
      upload_segments(SegmentSet::kStarting);
      return;
    case LinearStage::kFold:
    case LinearStage::kDstate:
      upload_segments(SegmentSet::kContinuing);
      return;
    case LinearStage::kLocalBwd:
      return backward(SegmentSet::kInsideRow);
    case LinearStage::kFoldBwd:
      return backward(SegmentSet::kEndingRow);
  }
}

void temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input) {
  if (call.q.dtype() == DType::kBF16) {
    check_supported(call);
    return chunked(ctx, call, input);
  }
  token_by_token(ctx, call, input);
}

std::vector<Tensor> saved(Context& ctx, const LinearStateCall& call) {
  if (call.q.dtype() != DType::kBF16) return allocate_chunk_states(ctx, call);
  delta::check_supported(call);
  return delta::allocate_saved(ctx, call, delta::kNumSaved);
}

std::vector<Tensor> passed(Context& ctx, const LinearStateCall& call) {
  if (call.q.dtype() != DType::kBF16) return {};
  delta::check_supported(call);
  return delta::allocate_saved(ctx, call, delta::kStates);
}

}  // namespace

LinearStateKernels gated_delta_kernels() {
  LinearStateKernels kernels{.allocate_saved = saved, .allocate_passed = passed, .temporaries = temporaries};
  if constexpr (kHasCuda) add_gated_delta_kernels(kernels);
  return kernels;
}

}  // namespace spanwise::cuda
