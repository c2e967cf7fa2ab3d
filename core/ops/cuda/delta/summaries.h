#pragma once
// The states that parts of segments start from (parts.h), and whole segments' summaries: which
// kernels give them.

#include "core/ops/cuda/delta/call.h"

namespace spanwise::cuda::delta {

/// How a pass over parts stands to the spans' exchange (linear_state.h).
enum class Spans {
  kNone,
  kGiven,  ///< passes after summarize() and dstate(), which summarised the parts of rows' ends and starts
};

/// Row of the state with which a segment comes in or goes out, or −1.
inline int row_in(const ChunkList::SegmentChunks& s) {
  return s.continues ? int(s.row) : -1;
}
inline int row_out(const ChunkList::SegmentChunks& s) {
  return s.ends_row ? int(s.row) : -1;
}

std::vector<const PartPlan::Cut*> cuts_of(const PartPlan& plan,
                                          const std::vector<ChunkList::SegmentChunks>& segments);
std::vector<ChunkList::SegmentChunks> uncut_of(const PartPlan& plan,
                                               const std::vector<ChunkList::SegmentChunks>& segments);

/// What summarises whole segments, or their parts, in one direction.
class Summarizer {
 public:
  /// `values`: v, or dout. `saved` outlives this.
  Summarizer(Context& ctx, const CallOperands& x, const DeviceChunks& chunks, const Rows& values,
             Direction direction, const std::vector<Tensor>& saved);

  /// Segments that are not cut, each into the matrices of its row.
  void rows(const std::vector<ChunkList::SegmentChunks>& segments, const Tensor& states,
            const Tensor& transitions) const;
  /// All parts, of states that are not known yet.
  void open_parts(const PartPlan& plan, const std::vector<const PartPlan::Cut*>& cuts) const;
  /// Folds parts' summaries; `args` names the states.
  void fold(const std::vector<FoldRange>& ranges, FoldArgs args) const;
  /// The states that the parts of `segments` start from, [parts, HV, K, V]; undefined if none is cut.
  /// `start`: those of the rows. With spans, parts that open_parts() has summarised are not summarised again.
  Tensor part_states(const PartPlan& plan, const std::vector<ChunkList::SegmentChunks>& segments,
                     const float* start, Spans spans) const;

 private:
  /// The parts of segments but the last one in this direction. Backward the first starts from `start`,
  /// forward its M is there to be applied.
  void parts(const PartPlan& plan, const std::vector<const PartPlan::Cut*>& cuts, const float* start,
             Spans spans) const;
  void launch(SummaryArgs args, const std::vector<SummaryUnit>& units) const;
  bool forward() const { return args_.direction == Direction::kForward; }

  Context& ctx_;
  const std::vector<Tensor>& saved_;
  SummaryArgs args_;
};

}  // namespace spanwise::cuda::delta
