#include "core/ops/cuda/delta/summaries.h"

#include "core/shared_upload.h"

namespace spanwise::cuda::delta {

std::vector<const PartPlan::Cut*> cuts_of(const PartPlan& plan,
                                          const std::vector<ChunkList::SegmentChunks>& segments) {
  std::vector<const PartPlan::Cut*> cuts;
  for (const ChunkList::SegmentChunks& s : segments) {
    if (const PartPlan::Cut* cut = plan.find(s.first)) cuts.push_back(cut);
  }
  return cuts;
}

std::vector<ChunkList::SegmentChunks> uncut_of(const PartPlan& plan,
                                               const std::vector<ChunkList::SegmentChunks>& segments) {
  std::vector<ChunkList::SegmentChunks> uncut;
  for (const ChunkList::SegmentChunks& s : segments) {
    if (!plan.find(s.first)) uncut.push_back(s);
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
            .states = pointer<float>(saved[kPartStates]),
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

void Summarizer::open_parts(const PartPlan& plan, const std::vector<const PartPlan::Cut*>& cuts) const {
  std::vector<SummaryUnit> units;
  for (const PartPlan::Cut* cut : cuts) {
    for (int i = cut->first; i < cut->last; ++i)
      units.push_back({plan.parts()[size_t(i)].first, plan.parts()[size_t(i)].last, -1, i, 1,
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
  args.HV = int(saved_[kPartStates].dim(1));
  args.K = int(saved_[kPartStates].dim(2));
  args.V = int(saved_[kPartStates].dim(3));
  args.own = pointer<float>(saved_[kPartStates]);
  args.transitions = pointer<float>(saved_[kTransitions]);
  args.passes = pointer<float>(saved_[kPasses]);
  launch_fold(stream_of(ctx_), args);
}

Tensor Summarizer::part_states(const PartPlan& plan, const std::vector<ChunkList::SegmentChunks>& segments,
                               const float* start, Spans spans) const {
  const std::vector<const PartPlan::Cut*> cuts = cuts_of(plan, segments);
  if (cuts.empty()) return Tensor();
  std::vector<const PartPlan::Cut*> open;
  std::vector<FoldRange> ranges;
  for (const PartPlan::Cut* cut : cuts) {
    const ChunkList::SegmentChunks& segment = cut->segment;
    const bool known = spans == Spans::kGiven && (forward() ? segment.ends_row : segment.continues);
    if (!known) open.push_back(cut);
    const int row = forward() ? row_in(segment) : row_out(segment);
    ranges.push_back({cut->first, cut->last, start && (forward() || known) ? row : -1, -1, -1});
  }
  parts(plan, open, start, spans);
  const Tensor states = Tensor::empty(ctx_, saved_[kPartStates].shape(), DType::kF32);
  fold(ranges, {.start = start, .states = pointer<float>(states)});
  return states;
}

void Summarizer::parts(const PartPlan& plan, const std::vector<const PartPlan::Cut*>& cuts,
                       const float* start, Spans spans) const {
  std::vector<SummaryUnit> units;
  for (const PartPlan::Cut* cut : cuts) {
    // dstate() folds to the start of segments that go on from other spans.
    const bool whole = (start || spans == Spans::kGiven) && cut->segment.continues;
    for (int i = cut->first; i < cut->last; ++i) {
      const bool begins = i == cut->first, ends = i + 1 == cut->last;
      units.push_back({plan.parts()[size_t(i)].first, plan.parts()[size_t(i)].last,
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
