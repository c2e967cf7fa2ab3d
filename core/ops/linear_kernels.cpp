#include "core/ops/linear_kernels.h"

#include <algorithm>

namespace spanwise {

ChunkList::ChunkList(const SequenceLayout& layout, int64_t chunk) {
  SPANWISE_CHECK(chunk >= 1, "a chunk of {} tokens is empty", chunk);
  for (int64_t i = 0; i < int64_t(layout.segments().size()); ++i) {
    const Segment& s = layout.segments()[i];
    SegmentChunks segment{s.row, int64_t(chunks_.size()), 0, s.continues, i + 1 == layout.row_end(s.row)};
    for (int64_t t = s.begin; t < s.end; t += chunk) {
      const int64_t length = std::min(chunk, s.end - t);
      chunks_.push_back({s.row * layout.length() + t, length, t == s.begin ? -1 : num_states_++});
      max_length_ = std::max(max_length_, length);
    }
    segment.last = int64_t(chunks_.size());
    segments_.push_back(segment);
  }
}

std::vector<ChunkList::SegmentChunks> ChunkList::select(SegmentSet which) const {
  std::vector<SegmentChunks> selected;
  for (const SegmentChunks& s : segments_) {
    const bool in = which == SegmentSet::kContinuing  ? s.continues
                    : which == SegmentSet::kStarting  ? !s.continues
                    : which == SegmentSet::kEndingRow ? s.ends_row
                    : which == SegmentSet::kInsideRow ? !s.ends_row
                    : which == SegmentSet::kPassing   ? s.continues && s.ends_row
                                                      : true;
    if (in) selected.push_back(s);
  }
  return selected;
}

std::vector<Tensor> allocate_chunk_states(Context& ctx, const LinearStateCall& call) {
  const LinearStateShape s = shape_of(call);
  return {Tensor::empty(ctx, {call.chunks.num_states(), s.value_heads, s.key_dim, s.value_dim},
                        accumulation_dtype(s.dtype))};
}

int64_t chunk_state_bytes(const LinearStateShape& s, const ChunkList& chunks) {
  return chunks.num_states() * s.value_heads * s.key_dim * s.value_dim *
         int64_t(size_of(accumulation_dtype(s.dtype)));
}

int64_t value_head_gradient_bytes(const LinearStateShape& s) {
  return s.tokens() * s.value_heads * s.key_dim * int64_t(size_of(s.dtype));
}

LinearStateShape shape_of(const LinearOperands<Tensor>& x) {
  return {.rows = x.q.dim(0),
          .length = x.q.dim(1),
          .key_heads = x.q.dim(2),
          .value_heads = x.v.dim(2),
          .key_dim = x.q.dim(3),
          .value_dim = x.v.dim(3),
          .dtype = x.q.dtype(),
          .token_decay = x.log_decay.defined()};
}

}  // namespace spanwise
