#pragma once
// The states that pieces of segments start from (pieces.h), and whole segments' summaries: which
// kernels give them.

#include "core/ops/cuda/delta/call.h"

namespace spanwise::cuda::delta {

/// How a pass over pieces stands to the spans' exchange (linear_state.h).
enum class Spans {
  kNone,
  kGiven,  ///< passes after summarize() and dstate(), which summarised the pieces of rows' ends and starts
};

/// Row of the state with which a segment comes in or goes out, or −1.
inline int row_in(const ChunkList::SegmentChunks& s) {
  return s.continues ? int(s.row) : -1;
}
inline int row_out(const ChunkList::SegmentChunks& s) {
  return s.ends_row ? int(s.row) : -1;
}

std::vector<const SegmentCuts::Cut*> cut_among(const SegmentCuts& cuts,
                                               const std::vector<ChunkList::SegmentChunks>& segments);
std::vector<ChunkList::SegmentChunks> uncut_among(const SegmentCuts& cuts,
                                                  const std::vector<ChunkList::SegmentChunks>& segments);

/// What summarises whole segments, or their pieces, in one direction.
class Summarizer {
 public:
  /// `values`: v, or dout. `saved` outlives this.
  Summarizer(Context& ctx, const CallOperands& x, const DeviceChunks& chunks, const Rows& values,
             Direction direction, const std::vector<Tensor>& saved);

  /// Segments that are not cut, each into the matrices of its row.
  void rows(const std::vector<ChunkList::SegmentChunks>& segments, const Tensor& states,
            const Tensor& transitions) const;
  /// All pieces, of states that are not known yet.
  void open_pieces(const SegmentCuts& cuts, const std::vector<const SegmentCuts::Cut*>& selected) const;
  /// Folds pieces' summaries; `args` names the states.
  void fold(const std::vector<FoldRange>& ranges, FoldArgs args) const;
  /// The states that the pieces of `segments` start from, [pieces, HV, K, V]; undefined if none is cut.
  /// `start`: those of the rows. With spans, pieces that open_pieces() has summarised are not summarised
  /// again.
  Tensor piece_states(const SegmentCuts& cuts, const std::vector<ChunkList::SegmentChunks>& segments,
                      const float* start, Spans spans) const;

 private:
  /// The pieces of segments but the last one in this direction. Backward the first starts from `start`,
  /// forward its M is there to be applied.
  void pieces(const SegmentCuts& cuts, const std::vector<const SegmentCuts::Cut*>& selected,
              const float* start, Spans spans) const;
  void launch(SummaryArgs args, const std::vector<SummaryUnit>& units) const;
  bool forward() const { return args_.direction == Direction::kForward; }

  Context& ctx_;
  const std::vector<Tensor>& saved_;
  SummaryArgs args_;
};

}  // namespace spanwise::cuda::delta
