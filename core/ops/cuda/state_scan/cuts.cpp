#include "core/ops/cuda/state_scan/cuts.h"

#include <algorithm>

#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/cuda/common/hopper.h"
#include "core/ops/scalar_decay.h"

namespace spanwise::cuda {

namespace {

// Chunks between saved states: dg sums rounded terms from one to the next, so their number bounds its error;
// the states take V / 512 times the bytes of k, written and read once.
constexpr int64_t kGroupChunks = 8;
// A shorter piece does not repay two more launches.
constexpr int64_t kMinPieceChunks = 32;
// Short segments follow each other in one run up to this many chunks at least, to repay a block's start.
constexpr int64_t kMinRunChunks = 16;

// A segment's last chunk is a group of its own: where a gradient comes in from outside, which may be large
// beside all others, its rounding reaches few tokens.
bool ends_group(int64_t chunk, int64_t num_chunks) {
  return chunk >= num_chunks - 2 || chunk % kGroupChunks == kGroupChunks - 1;
}
int64_t num_groups(int64_t num_chunks) {
  return ceil_div(num_chunks - 1, kGroupChunks) + 1;
}

}  // namespace

ScanCuts::ScanCuts(const LinearStateShape& shape, const ChunkList& list, bool initial_state)
    : chunks_(list), initial_state_(initial_state) {
  const auto& chunks = list.chunks();
  int64_t num_chunks = 0;
  for (const ChunkList::SegmentChunks& s : list.select(SegmentSet::kAll)) {
    const ChunkList::Chunk& last = chunks[s.last - 1];
    const int64_t begin = chunks[s.first].begin, length = last.begin + last.length - begin;
    segments_.push_back({s.row, begin, length, s.continues, s.ends_row, 1, length, 0, 0});
    num_chunks += ceil_div(length, kScanChunk);
  }
  // The fewest blocks that one of the call's scans has on the same tokens.
  const int64_t width = std::min(shape.key_dim, shape.value_dim),
                units = shape.value_heads * num_slabs(shape.dtype, width),
                share = ceil_div(num_chunks * units, kHopperProcessors);
  run_chunks_ = std::max(kMinRunChunks, share / 4);
  for (Segment& s : segments_) {
    const int64_t length = ceil_div(s.length, kScanChunk);
    // A cut segment is scanned one and a half times: worth it from two pieces on.
    const int64_t piece = std::max(kMinPieceChunks, share);
    if (length >= 2 * piece) {
      const int64_t wanted = ceil_div(ceil_div(length, length / piece), kGroupChunks) * kGroupChunks;
      s.piece_length = wanted * kScanChunk;
      s.num_pieces = ceil_div(s.length, s.piece_length);
    }
    s.first_cut = num_cuts_;
    num_cuts_ += s.num_pieces - 1;
    if (shape.token_decay) {
      s.first_slot = num_slots_;
      num_slots_ += num_groups(length);
    }
  }
}

std::vector<ScanCuts::Segment> ScanCuts::select(SegmentSet which) const {
  std::vector<Segment> selected;
  size_t next = 0;
  for (const ChunkList::SegmentChunks& s : chunks_.select(which)) {
    const int64_t begin = chunks_.chunks()[s.first].begin;
    while (segments_[next].begin != begin) ++next;
    selected.push_back(segments_[next]);
  }
  return selected;
}

std::vector<ScanCuts::Group> ScanCuts::groups(SegmentSet which) const {
  std::vector<Group> groups;
  for (const Segment& s : select(which)) {
    const bool empty = !(s.continues && initial_state_);
    const int64_t num_chunks = ceil_div(s.length, kScanChunk);
    int64_t begin = 0;
    for (int64_t c = 0; c < num_chunks; ++c) {
      if (!ends_group(c, num_chunks)) continue;
      const int64_t end = std::min((c + 1) * kScanChunk, s.length);
      groups.push_back({int32_t(s.begin + begin), int32_t(end - begin),
                        int32_t(num_slots_ ? saved_slot(s, c, num_chunks) : -1),
                        int32_t(begin == 0 && empty)});
      begin = end;
    }
  }
  return groups;
}

int64_t saved_slot(const ScanCuts::Segment& s, int64_t chunk, int64_t num_chunks) {
  const bool last = chunk == num_chunks - 1;
  if (!ends_group(chunk, num_chunks) || (last && !s.ends_row)) return -1;
  return s.first_slot + (last ? num_groups(num_chunks) - 1 : chunk / kGroupChunks);
}

int64_t num_slabs(DType dtype, int64_t value_width) {
  return ceil_div(value_width, dtype == DType::kBF16 ? kScanSlab : kScanSlabF32);
}

Shape saved_states_shape(const LinearStateShape& s, const ScanCuts& cuts) {
  const int64_t width = s.dtype == DType::kBF16 ? kScanSlab : kScanSlabF32;
  return {cuts.num_slots(), s.value_heads, num_slabs(s.dtype, s.value_dim), s.key_dim * width};
}

Shape cut_states_shape(const LinearStateShape& s, const ScanCuts& cuts) {
  return {cuts.num_cuts(), s.value_heads, s.key_dim, s.value_dim};
}

Tensor allocate_saved_states(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts) {
  if (cuts.num_slots() == 0) return Tensor();
  return Tensor::empty(ctx, saved_states_shape(shape_of(call), cuts), call.q.dtype());
}

Tensor allocate_cut_states(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts) {
  if (cuts.num_cuts() == 0) return Tensor();
  return Tensor::empty(ctx, cut_states_shape(shape_of(call), cuts), DType::kF32);
}

Tensor allocate_dots(Context& ctx, const LinearStateCall& call, bool dlog_decay) {
  if (!dlog_decay) return Tensor();
  const LinearStateShape s = shape_of(call);
  return Tensor::empty(ctx, {num_slabs(s.dtype, s.key_dim), s.value_heads, s.tokens()}, DType::kF32);
}

Tensor allocate_state_dots(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts) {
  const LinearStateShape s = shape_of(call);
  return Tensor::empty(ctx, {num_slabs(s.dtype, s.value_dim), cuts.num_slots(), s.value_heads}, DType::kF32);
}

Tensor allocate_per_value_head(Context& ctx, const LinearStateCall& call) {
  const LinearStateShape s = shape_of(call);
  if (s.key_heads == s.value_heads) return Tensor();
  return Tensor::empty(ctx, {s.rows, s.length, s.value_heads, s.key_dim}, s.dtype);
}

Tensor allocate_cut_logs(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts) {
  return Tensor::empty(ctx, {cuts.num_cuts(), call.v.dim(2)}, DType::kF32);
}

// Backward: dq first, with its dots; then dk, its dots and those of saved states, and states at the cuts. Of
// a row that is one segment nothing but dq comes before the exchange has ended, whose summary has states at
// the cuts of its own.
LinearStateBytes scalar_decay_bytes(const LinearStateShape& s, const ChunkList& chunks) {
  const ScanCuts cuts(s, chunks, false);
  const int64_t cut_bytes = cut_states_shape(s, cuts).numel() * int64_t(sizeof(float));
  const int64_t slots = saved_states_shape(s, cuts).numel() * int64_t(size_of(s.dtype));
  const int64_t heads = s.value_heads > s.key_heads ? value_head_gradient_bytes(s) : 0;
  int64_t dots = 0, state_dots = 0;
  if (s.token_decay) {
    dots = num_slabs(s.dtype, s.key_dim) * s.value_heads * s.tokens() * int64_t(sizeof(float));
    state_dots = num_slabs(s.dtype, s.value_dim) * cuts.num_slots() * s.value_heads * int64_t(sizeof(float));
  }
  const int64_t queries = heads + dots, keys = heads + dots + state_dots + cut_bytes;
  return {.saved = slots + cut_bytes,
          .forward = cut_bytes,
          .backward = keys,
          .local_bwd = queries,
          .fold_bwd = keys};
}

}  // namespace spanwise::cuda
