#include <algorithm>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/state_scan.h"
#include "core/ops/cuda/state_scan_device.h"

namespace spanwise::cuda {

namespace {

// An H200's; others only balance worse.
constexpr int64_t kMultiprocessors = 132;
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

ScanPlan::ScanPlan(const LinearStateCall& call) : call_(call) {
  const auto& chunks = call.chunks.chunks();
  int64_t num_chunks = 0;
  for (const ChunkList::SegmentChunks& s : call.chunks.select(SegmentSet::kAll)) {
    const ChunkList::Chunk& last = chunks[s.last - 1];
    const int64_t begin = chunks[s.first].begin, length = last.begin + last.length - begin;
    segments_.push_back({s.row, begin, length, s.continues, s.ends_row, 1, length, 0, 0});
    num_chunks += ceil_div(length, kScanChunk);
  }
  // The fewest blocks that one of the call's scans has on the same tokens.
  const int64_t width = std::min(call.q.dim(3), call.v.dim(3)),
                units = call.v.dim(2) * num_slabs(call.q.dtype(), width),
                share = ceil_div(num_chunks * units, kMultiprocessors);
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
    if (call.log_decay.defined()) {
      s.first_slot = num_slots_;
      num_slots_ += num_groups(length);
    }
  }
}

std::vector<ScanPlan::Segment> ScanPlan::select(SegmentSet which) const {
  std::vector<Segment> selected;
  size_t next = 0;
  for (const ChunkList::SegmentChunks& s : call_.chunks.select(which)) {
    const int64_t begin = call_.chunks.chunks()[s.first].begin;
    while (segments_[next].begin != begin) ++next;
    selected.push_back(segments_[next]);
  }
  return selected;
}

std::vector<ScanPlan::Group> ScanPlan::groups(SegmentSet which) const {
  std::vector<Group> groups;
  for (const Segment& s : select(which)) {
    const bool empty = !(s.continues && call_.initial_state.defined());
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

int64_t saved_slot(const ScanPlan::Segment& s, int64_t chunk, int64_t num_chunks) {
  const bool last = chunk == num_chunks - 1;
  if (!ends_group(chunk, num_chunks) || (last && !s.ends_row)) return -1;
  return s.first_slot + (last ? num_groups(num_chunks) - 1 : chunk / kGroupChunks);
}

int64_t num_slabs(DType dtype, int64_t value_width) {
  return ceil_div(value_width, dtype == DType::kBF16 ? kScanSlab : kScanSlabF32);
}

Tensor allocate_saved_states(Context& ctx, const LinearStateCall& call, const ScanPlan& plan) {
  if (plan.num_slots() == 0) return Tensor();
  const DType dtype = call.q.dtype();
  const int64_t slabs = num_slabs(dtype, call.v.dim(3)),
                width = dtype == DType::kBF16 ? kScanSlab : kScanSlabF32;
  return Tensor::empty(ctx, {plan.num_slots(), call.v.dim(2), slabs, call.q.dim(3) * width}, dtype);
}

}  // namespace spanwise::cuda
