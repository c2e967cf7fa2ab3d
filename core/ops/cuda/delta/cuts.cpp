#include "core/ops/cuda/delta/cuts.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/cuda/common/hopper.h"

namespace spanwise::cuda::delta {

namespace {

constexpr int kLeastChunks = 8;  // of a piece

// Clock cycles on an H200 with K = 128, measured or counted; only their ratios matter.
constexpr double kScanCycles = 3900;      // a chunk of a scan or retreat
constexpr double kForwardCycles = 3000;   // a chunk of a forward summary
constexpr double kBackwardCycles = 4100;  // of a backward one
constexpr double kFoldCycles = 2500;      // a piece
constexpr double kLaunchCycles = 20000;   // of the summary and the fold
// Decays forget within a few chunks but for some heads: the share of blocks that visit whole pieces.
constexpr double kWholeWithDecays = 0.25;

/// Time of a scan and a retreat and of what comes before them.
class CostModel {
 public:
  CostModel(const std::vector<ChunkList::SegmentChunks>& segments, int heads, int K, int V, bool decays,
            int num_multiprocessors)
      : scan_blocks_(int64_t(heads) * (V / 64)), multiprocessors_(num_multiprocessors) {
    forward_blocks_ = heads * (K <= 128 ? ceil_div(V, 128) : (V + K) / 64);
    backward_blocks_ = heads * (K <= 128 ? ceil_div(V, 128) : V / 64);
    whole_ = decays ? kWholeWithDecays : 1.0;
    for (const ChunkList::SegmentChunks& s : segments) longest_ = std::max(longest_, s.last - s.first);
    for (const ChunkList::SegmentChunks& s : segments) {
      const int64_t count = s.last - s.first;
      total_ += count;
      if (count >= 2 * kLeastChunks && count * kMostPieces >= longest_) {
        long_.push_back(count);
      } else {
        ++num_short_;
        longest_short_ = std::max(longest_short_, count);
      }
    }
  }
  int64_t longest() const { return longest_; }
  /// A segment of `count` chunks in pieces of about `length`.
  static int64_t num_pieces(int64_t count, int64_t length) {
    return std::clamp<int64_t>((count + length / 2) / length, 1, std::max<int64_t>(1, count / kLeastChunks));
  }
  double cycles(int64_t length) const {
    int64_t pieces = num_short_, longest = longest_short_, whole = 0, summaries = 0, folded = 0;
    for (const int64_t count : long_) {
      const int64_t num = num_pieces(count, length), each = ceil_div(count, num);
      pieces += num;
      longest = std::max(longest, each);
      if (num == 1) continue;
      whole = std::max(whole, each);
      summaries += num - 1;
      folded = std::max(folded, num);
    }
    const double mean = double(total_) / double(pieces);
    const double scan = kScanCycles * std::max(double(longest), waves(pieces * scan_blocks_) * mean);
    if (folded == 0) return 2 * scan;
    const double forward = kForwardCycles * waves(double(summaries * forward_blocks_) * whole_),
                 backward = kBackwardCycles * waves(double(summaries * backward_blocks_) * whole_);
    return 2 * (scan + kLaunchCycles + kFoldCycles * double(folded)) + (forward + backward) * double(whole);
  }
  /// No cut makes it shorter.
  double least_cycles() const {
    return 2 * kScanCycles * double(total_ * scan_blocks_) / double(multiprocessors_);
  }

 private:
  double waves(double blocks) const { return std::ceil(blocks / double(multiprocessors_)); }

  int64_t scan_blocks_, forward_blocks_, backward_blocks_, multiprocessors_;
  double whole_;
  int64_t longest_ = 0, total_ = 0, num_short_ = 0, longest_short_ = 0;
  std::vector<int64_t> long_;
};

}  // namespace

SegmentCuts cuts_of(const LinearStateShape& s, const ChunkList& chunks) {
  return SegmentCuts(chunks, int(s.value_heads), int(s.key_dim), int(s.value_dim), s.token_decay);
}

SegmentCuts::SegmentCuts(const ChunkList& chunks, int heads, int K, int V, bool decays) {
  const std::vector<ChunkList::SegmentChunks> segments = chunks.select(SegmentSet::kAll);
  const CostModel model(segments, heads, K, V, decays, kHopperProcessors);
  int64_t length = model.longest();
  double best = 0.95 * model.cycles(length);
  if (best <= model.least_cycles()) return;
  for (int64_t num = 2; num <= std::min<int64_t>(kMostPieces, model.longest() / kLeastChunks); ++num) {
    const int64_t candidate = ceil_div(model.longest(), num);
    const double cycles = model.cycles(candidate);
    if (cycles < best) {
      best = cycles;
      length = candidate;
    }
  }
  if (length == model.longest()) return;
  for (const ChunkList::SegmentChunks& s : segments) {
    const int64_t count = s.last - s.first, num = CostModel::num_pieces(count, length);
    if (num == 1) continue;
    const int begin = int(pieces_.size());
    for (int64_t i = 0; i < num; ++i)
      pieces_.push_back({int(s.first + count * i / num), int(s.first + count * (i + 1) / num)});
    cuts_.push_back({s, begin, int(pieces_.size())});
  }
}

const SegmentCuts::Cut* SegmentCuts::find(int64_t first_chunk) const {
  const auto at = std::lower_bound(cuts_.begin(), cuts_.end(), first_chunk,
                                   [](const Cut& cut, int64_t chunk) { return cut.segment.first < chunk; });
  return at != cuts_.end() && at->segment.first == first_chunk ? &*at : nullptr;
}

}  // namespace spanwise::cuda::delta
