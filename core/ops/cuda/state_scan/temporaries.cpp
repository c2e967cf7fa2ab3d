// What scalar_decay's scans take on a GPU, in their order (scalar_decay.cu, scan.cu), also in dry runs. Lists
// of chunks that scans read, 32 bytes a chunk and scan, are left out.

#include "core/dispatch.h"
#include "core/ops/cuda/common/alignment.h"
#include "core/ops/cuda/state_scan/cuts.h"
#include "core/ops/scalar_decay.h"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

/// The states at the cuts, to a scan.
enum class CutStates {
  kNone,   ///< makes them, for itself
  kGiven,  ///< makes them in memory that it is given
  kKnown
};

/// run_state_scan over the segments `which` names, which reads `first` before it makes states at the cuts and
/// `then` after. Gradients are contiguous, as kernels can read them.
void scan(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts, SegmentSet which, CutStates states,
          const std::vector<Tensor>& first, const std::vector<Tensor>& then) {
  const std::vector<ScanCuts::Segment> segments = cuts.select(which);
  if (segments.empty()) return;
  std::vector<Tensor> held;
  const auto hold_aligned = [&](const std::vector<Tensor>& operands) {
    for (const Tensor& t : operands) {
      if (t.dtype() == DType::kBF16 && !heads_are_aligned(t))
        held.push_back(Tensor::empty(ctx, t.shape(), t.dtype()));
    }
  };
  hold_aligned(first);
  int64_t num_cuts = 0;
  for (const ScanCuts::Segment& s : segments) num_cuts += s.num_pieces - 1;
  if (num_cuts > 0 && states != CutStates::kKnown) {
    if (states == CutStates::kNone) held.push_back(allocate_cut_states(ctx, call, cuts));
    allocate_cut_logs(ctx, call, cuts);
  }
  hold_aligned(then);
}

/// Backward (scalar_decay.cu).
class Backward {
 public:
  Backward(Context& ctx, const LinearStateCall& call, bool dlog_decay)
      : ctx_(ctx), call_(call), cuts_(call), dlog_decay_(dlog_decay) {}

  void query_gradients(SegmentSet which) const {
    if (!upload_groups(which)) return;
    const Tensor heads = allocate_per_value_head(ctx_, call_), dots = allocate_dots(ctx_, call_, dlog_decay_);
    scan(ctx_, call_, cuts_, which, CutStates::kKnown, {call_.v, call_.k}, of_dots(call_.q));
  }

  void key_value_gradients(SegmentSet which) const {
    if (!upload_groups(which)) return;
    const Tensor cut_states = allocate_cut_states(ctx_, call_, cuts_);
    const Tensor heads = allocate_per_value_head(ctx_, call_), dots = allocate_dots(ctx_, call_, dlog_decay_);
    const Tensor state_dots = dlog_decay_ ? allocate_state_dots(ctx_, call_, cuts_) : Tensor();
    scan(ctx_, call_, cuts_, which, CutStates::kGiven, {call_.q}, {call_.k});
    scan(ctx_, call_, cuts_, which, CutStates::kKnown, {call_.q}, of_dots(call_.k, call_.v));
  }

 private:
  /// What is read for dots, beside what is read anyhow.
  std::vector<Tensor> of_dots(const Tensor& x, const Tensor& always = {}) const {
    std::vector<Tensor> read;
    if (always.defined()) read.push_back(always);
    if (dlog_decay_) read.push_back(x);
    return read;
  }
  bool upload_groups(SegmentSet which) const {
    const std::vector<ScanCuts::Group> groups = cuts_.groups(which);
    if (!groups.empty()) shared_upload(ctx_, groups);
    return !groups.empty();
  }

  Context& ctx_;
  const LinearStateCall& call_;
  ScanCuts cuts_;
  bool dlog_decay_;
};

std::vector<Tensor> saved(Context& ctx, const LinearStateCall& call) {
  const ScanCuts cuts(call);
  return {allocate_saved_states(ctx, call, cuts), allocate_cut_states(ctx, call, cuts)};
}

void temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input) {
  const ScanCuts cuts(call);
  const CutStates states = input.saves ? CutStates::kGiven : CutStates::kNone;
  const Backward backward(ctx, call, input.dlog_decay);
  switch (input.stage) {
    case LinearStage::kForward:
      return scan(ctx, call, cuts, SegmentSet::kAll, states, {call.k, call.v}, {call.q});
    case LinearStage::kBackward:
      backward.query_gradients(SegmentSet::kAll);
      return backward.key_value_gradients(SegmentSet::kAll);
    case LinearStage::kSummarize:
      if (!input.summary) return;
      return scan(ctx, call, cuts, SegmentSet::kEndingRow, CutStates::kNone, {call.k, call.v}, {});
    case LinearStage::kLocal:
      return scan(ctx, call, cuts, SegmentSet::kStarting, states, {call.k, call.v}, {call.q});
    case LinearStage::kFold:
      return scan(ctx, call, cuts, SegmentSet::kContinuing, states, {call.k, call.v}, {call.q});
    case LinearStage::kDstate:
      return scan(ctx, call, cuts, SegmentSet::kContinuing, CutStates::kNone, {call.q}, {});
    case LinearStage::kLocalBwd:
      backward.query_gradients(SegmentSet::kAll);
      return backward.key_value_gradients(SegmentSet::kInsideRow);
    case LinearStage::kFoldBwd:
      return backward.key_value_gradients(SegmentSet::kEndingRow);
  }
}

}  // namespace

LinearStateKernels scalar_decay_kernels() {
  LinearStateKernels kernels{
      .allocate_saved = saved, .allocate_passed = allocate_nothing, .temporaries = temporaries};
  if constexpr (kHasCuda) add_scalar_decay_kernels(kernels);
  return kernels;
}

}  // namespace spanwise::cuda
