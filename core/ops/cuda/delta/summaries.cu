#include "core/ops/cuda/delta/summaries.h"

#include "core/shared_upload.h"

namespace spanwise::cuda::delta {

std::vector<const SegmentCuts::Cut*> cut_among(const SegmentCuts& cuts,
                                               const std::vector<ChunkList::SegmentChunks>& segments) {
  std::vector<const SegmentCuts::Cut*> selected;
  for (const ChunkList::SegmentChunks& s : segments) {
    if (const SegmentCuts::Cut* cut = cuts.find(s.first)) selected.push_back(cut);
  }
  return selected;
}

std::vector<ChunkList::SegmentChunks> uncut_among(const SegmentCuts& cuts,
                                                  const std::vector<ChunkList::SegmentChunks>& segments) {
  std::vector<ChunkList::SegmentChunks> uncut;
  for (const ChunkList::SegmentChunks& s : segments) {
    if (!cuts.find(s.first)) uncut.push_back(s);
  }
  return uncut;
}

Summarizer::Summarizer(Context& ctx, const CallOperands& x, const DeviceChunks& chunks, const Rows& values,
                       Direction direction, const std::vector<Tensor>& saved)
    : ctx_(ctx),
      saved_(saved),
      args_{.problem = x.problem(chunks),
            .direction = direction,
            .units = nullptr,
            .num_units = 0,
            .values = values,
            .theta = pointer<bf16>(saved[kTheta]),
            .scores = pointer<bf16>(saved[kScores]),
            .factors = pointer<float>(saved[kFactors]),
            .start = nullptr,
            .states = pointer<float>(saved[kPieceStates]),
            .transitions = direction == Direction::kForward ? pointer<float>(saved[kTransitions]) : nullptr,
            .passes = pointer<float>(saved[kPasses])} {}

void Summarizer::rows(const std::vector<ChunkList::SegmentChunks>& segments, const Tensor& states,
                      const Tensor& transitions) const {
  std::vector<SummaryUnit> units;
  for (const ChunkList::SegmentChunks& s : segments)
    units.push_back({int(s.first), int(s.last), -1, int(s.row), 1, s.continues && s.ends_row});
  SummaryArgs args = args_;
  args.states = pointer<float>(states);
  args.transitions = pointer<float>(transitions);
  args.passes = nullptr;
  launch(args, units);
}

void Summarizer::open_pieces(const SegmentCuts& cuts,
                             const std::vector<const SegmentCuts::Cut*>& selected) const {
  std::vector<SummaryUnit> units;
  for (const SegmentCuts::Cut* cut : selected) {
    for (int i = cut->first; i < cut->last; ++i)
      units.push_back({cuts.pieces()[size_t(i)].first, cuts.pieces()[size_t(i)].last, -1, i, 1,
                       i > cut->first || cut->segment.continues});
  }
  launch(args_, units);
}

void Summarizer::fold(const std::vector<FoldRange>& ranges, FoldArgs args) const {
  if (ranges.empty()) return;
  const SharedArray uploaded(ctx_, ranges);
  args.ranges = uploaded.data();
  args.num_ranges = uploaded.size();
  args.direction = args_.direction;
  args.HV = int(saved_[kPieceStates].dim(1));
  args.K = int(saved_[kPieceStates].dim(2));
  args.V = int(saved_[kPieceStates].dim(3));
  args.own = pointer<float>(saved_[kPieceStates]);
  args.transitions = pointer<float>(saved_[kTransitions]);
  args.passes = pointer<float>(saved_[kPasses]);
  launch_fold(stream_of(ctx_), args);
}

Tensor Summarizer::piece_states(const SegmentCuts& cuts,
                                const std::vector<ChunkList::SegmentChunks>& segments, const float* start,
                                Spans spans) const {
  const std::vector<const SegmentCuts::Cut*> selected = cut_among(cuts, segments);
  if (selected.empty()) return Tensor();
  std::vector<const SegmentCuts::Cut*> open;
  std::vector<FoldRange> ranges;
  for (const SegmentCuts::Cut* cut : selected) {
    const ChunkList::SegmentChunks& segment = cut->segment;
    const bool known = spans == Spans::kGiven && (forward() ? segment.ends_row : segment.continues);
    if (!known) open.push_back(cut);
    const int row = forward() ? row_in(segment) : row_out(segment);
    ranges.push_back({cut->first, cut->last, start && (forward() || known) ? row : -1, -1, -1});
  }
  pieces(cuts, open, start, spans);
  const Tensor states = Tensor::empty(ctx_, saved_[kPieceStates].shape(), DType::kF32);
  fold(ranges, {.start = start, .states = pointer<float>(states)});
  return states;
}

void Summarizer::pieces(const SegmentCuts& cuts, const std::vector<const SegmentCuts::Cut*>& selected,
                        const float* start, Spans spans) const {
  std::vector<SummaryUnit> units;
  for (const SegmentCuts::Cut* cut : selected) {
    // dstate() folds to the start of segments that go on from other spans.
    const bool whole = (start || spans == Spans::kGiven) && cut->segment.continues;
    for (int i = cut->first; i < cut->last; ++i) {
      const bool begins = i == cut->first, ends = i + 1 == cut->last;
      units.push_back({cuts.pieces()[size_t(i)].first, cuts.pieces()[size_t(i)].last,
                       !forward() && start && ends ? row_out(cut->segment) : -1, i,
                       !(forward() ? ends : begins), !ends && (!begins || whole)});
    }
  }
  SummaryArgs args = args_;
  args.start = start;
  launch(args, units);
}

void Summarizer::launch(SummaryArgs args, const std::vector<SummaryUnit>& units) const {
  if (units.empty()) return;
  const SharedArray uploaded(ctx_, units);
  args.units = uploaded.data();
  args.num_units = uploaded.size();
  launch_summarize(stream_of(ctx_), args);
}

}  // namespace spanwise::cuda::delta
