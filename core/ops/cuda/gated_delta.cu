// The host side of gated_delta on a GPU: which kernels run on which chunks. The kernels and what passes
// between them: delta/chunks.cuh (bf16), delta/recurrent.cuh (fp32).

#include "core/ops/gated_delta.h"

#include "core/ops/cuda/delta/finish.h"
#include "core/ops/cuda/delta/recurrent.h"
#include "core/ops/cuda/delta/summaries.h"
#include "core/ops/cuda/linear_step.h"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

using namespace delta;

bool is_bf16(const LinearStateCall& call) {
  return call.q.dtype() == DType::kBF16;
}

void prepare(Context& ctx, const CallOperands& x, const DeviceChunks& chunks,
             const std::vector<Tensor>& saved) {
  const LinearStateCall& call = x.call;
  const int64_t HV = call.v.dim(2);
  launch_prepare(stream_of(ctx),
                 {.problem = x.problem(chunks),
                  .log_decay = pointer<float>(call.log_decay),
                  .beta = pointer<float>(call.beta),
                  .log_decay_stride = call.log_decay.defined() ? call.log_decay.row_stride(HV) : 0,
                  .beta_stride = call.beta.row_stride(HV),
                  .theta = pointer<bf16>(saved[kTheta]),
                  .scores = pointer<bf16>(saved[kScores]),
                  .factors = pointer<float>(saved[kFactors])});
}

/// What the blocks of a scan or retreat walk through; pieces but the first (backward: the last) start from
/// states of their own.
std::vector<delta::Segment> walks_of(const SegmentCuts& cuts,
                                     const std::vector<ChunkList::SegmentChunks>& segments,
                                     Direction direction) {
  std::vector<delta::Segment> walks;
  for (const ChunkList::SegmentChunks& s : segments) {
    const SegmentCuts::Cut* cut = cuts.find(s.first);
    if (!cut) {
      walks.push_back({int(s.first), int(s.last), row_in(s), row_out(s), -1});
      continue;
    }
    for (int i = cut->first; i < cut->last; ++i) {
      const bool begins = i == cut->first, ends = i + 1 == cut->last;
      walks.push_back({cuts.pieces()[size_t(i)].first, cuts.pieces()[size_t(i)].last, begins ? row_in(s) : -1,
                       ends ? row_out(s) : -1, (direction == Direction::kForward ? begins : ends) ? -1 : i});
    }
  }
  return walks;
}

/// Outputs and states of the segments `which` names, after prepare().
void scan(Context& ctx, const LinearStateCall& call, SegmentSet which, const LinearStateForward& f,
          const std::vector<Tensor>& saved, Spans spans) {
  const CallOperands x(ctx, call);
  const DeviceChunks chunks(ctx, call, which, false);
  if (chunks.segments.empty()) return;
  const SegmentCuts cuts = cuts_of(call);
  const float* initial = pointer<float>(call.initial_state);
  const Tensor pieces = Summarizer(ctx, x, chunks, x.v.rows(), Direction::kForward, saved)
                            .piece_states(cuts, chunks.segments, initial, spans);
  const SharedArray walks(ctx, walks_of(cuts, chunks.segments, Direction::kForward));
  const bool save = saved.size() == kNumSaved;
  launch_scan(stream_of(ctx), {.problem = x.problem(chunks),
                               .segments = walks.data(),
                               .num_segments = walks.size(),
                               .v = x.v.rows(),
                               .theta = pointer<bf16>(saved[kTheta]),
                               .scores = pointer<bf16>(saved[kScores]),
                               .factors = pointer<float>(saved[kFactors]),
                               .initial = initial,
                               .pieces = pointer<float>(pieces),
                               .final = pointer<float>(f.final_state),
                               .out = {pointer<bf16>(f.out), f.out.row_stride(f.out.dim(2) * f.out.dim(3))},
                               .states = save ? pointer<bf16>(saved[kStates]) : nullptr,
                               .values = save ? pointer<bf16>(saved[kValues]) : nullptr});
}

/// dstates, Z, and the gradients of incoming states, of the segments `which` names.
struct Retreated {
  Tensor dstates, z;
};
Retreated retreat(Context& ctx, const CallOperands& x, const DeviceChunks& chunks, const AlignedRows& dout,
                  const LinearStateCotangents& from, const Tensor& dinitial, Spans spans) {
  const SegmentCuts cuts = cuts_of(x.call);
  const float* dfinal = pointer<float>(from.dfinal_state);
  const Tensor pieces = Summarizer(ctx, x, chunks, dout.rows(), Direction::kBackward, from.saved)
                            .piece_states(cuts, chunks.segments, dfinal, spans);
  const SharedArray walks(ctx, walks_of(cuts, chunks.segments, Direction::kBackward));
  const Retreated r{Tensor::empty(ctx, from.saved[kStates].shape(), DType::kBF16),
                    Tensor::empty(ctx, from.saved[kValues].shape(), DType::kBF16)};
  launch_retreat(stream_of(ctx), {.problem = x.problem(chunks),
                                  .segments = walks.data(),
                                  .num_segments = walks.size(),
                                  .dout = dout.rows(),
                                  .theta = pointer<bf16>(from.saved[kTheta]),
                                  .scores = pointer<bf16>(from.saved[kScores]),
                                  .factors = pointer<float>(from.saved[kFactors]),
                                  .dfinal = dfinal,
                                  .pieces = pointer<float>(pieces),
                                  .dinitial = pointer<float>(dinitial),
                                  .dstates = pointer<bf16>(r.dstates),
                                  .z = pointer<bf16>(r.z)});
  return r;
}

void backward(Context& ctx, const LinearStateCall& call, SegmentSet which, const LinearStateCotangents& from,
              const LinearStateGradients& d, Spans spans) {
  const CallOperands x(ctx, call);
  const DeviceChunks chunks(ctx, call, which, from.dfinal_state.defined());
  if (chunks.segments.empty()) return;
  const AlignedRows dout(ctx, from.dout);
  const Retreated r = retreat(ctx, x, chunks, dout, from, d.initial_state, spans);

  const int64_t H = call.q.dim(2), HV = call.v.dim(2), K = call.q.dim(3), V = call.v.dim(3);
  const TensorSize partials_size = gate_gradient_partials(shape_of(call), call.chunks);
  const Tensor partials = Tensor::empty(ctx, partials_size.shape, partials_size.dtype);
  const bool shared = HV > H;
  const Shape per_value_head{call.q.dim(0), call.q.dim(1), HV, K};
  const Tensor dq = shared ? Tensor::empty(ctx, per_value_head, DType::kBF16) : d.q,
               dk = shared ? Tensor::empty(ctx, per_value_head, DType::kBF16) : d.k;
  const cudaStream_t stream = stream_of(ctx);
  launch_gradients(stream, {.problem = x.problem(chunks),
                            .selected = chunks.selected(),
                            .num_selected = chunks.num_selected,
                            .v = x.v.rows(),
                            .dout = dout.rows(),
                            .dq = {pointer<bf16>(dq), HV * K},
                            .dk = {pointer<bf16>(dk), HV * K},
                            .dv = {pointer<bf16>(d.v), HV * V},
                            .factors = pointer<float>(from.saved[kFactors]),
                            .states = pointer<bf16>(from.saved[kStates]),
                            .dstates = pointer<bf16>(r.dstates),
                            .values = pointer<bf16>(from.saved[kValues]),
                            .z = pointer<bf16>(r.z),
                            .partials = pointer<float>(partials)});
  launch_finish(stream, {.chunks = chunks.chunks(),
                         .selected = chunks.selected(),
                         .num_chunks = chunks.num_chunks,
                         .num_selected = chunks.num_selected,
                         .HV = int(HV),
                         .key_blocks = int(partials.dim(1)),
                         .partials = pointer<float>(partials),
                         .dlog_decay = pointer<float>(d.log_decay),
                         .dbeta = pointer<float>(d.beta)});
  if (!shared) return;
  for (const auto& [heads, sums] : {std::pair{dq, d.q}, {dk, d.k}}) {
    launch_sum_heads(stream, {.chunks = chunks.chunks(),
                              .selected = chunks.selected(),
                              .num_selected = chunks.num_selected,
                              .H = int(H),
                              .HV = int(HV),
                              .K = int(K),
                              .heads = pointer<bf16>(heads),
                              .sums = pointer<bf16>(sums)});
  }
}

void gated_delta_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_fwd(ctx, call, which, out);
  const std::vector<Tensor> saved = out.saved.empty() ? allocate_saved(ctx, call, kStates) : out.saved;
  const CallOperands x(ctx, call);
  prepare(ctx, x, DeviceChunks(ctx, call, SegmentSet::kAll, false), saved);
  scan(ctx, call, which, out, saved, Spans::kNone);
}

void gated_delta_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateCotangents& from, const LinearStateGradients& d) {
  if (!is_bf16(call)) return recurrent_bwd(ctx, call, which, from, d);
  backward(ctx, call, which, from, d, Spans::kNone);
}

void gated_delta_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                           const LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_summarize(ctx, call, summary);
  const CallOperands x(ctx, call);
  prepare(ctx, x, DeviceChunks(ctx, call, SegmentSet::kAll, false), out.saved);
  // Rows in which a document starts pass nothing on: their transition stays zero.
  const DeviceChunks ending(ctx, call, SegmentSet::kEndingRow, false);
  const SegmentCuts cuts = cuts_of(call);
  const Summarizer summarizer(ctx, x, ending, x.v.rows(), Direction::kForward, out.saved);
  const std::vector<const SegmentCuts::Cut*> selected = cut_among(cuts, ending.segments);
  summarizer.open_pieces(cuts, selected);
  if (!summary) return;
  summarizer.rows(uncut_among(cuts, ending.segments), summary->state, summary->transition.values);
  std::vector<FoldRange> ranges;
  for (const SegmentCuts::Cut* cut : selected)
    ranges.push_back({cut->first, cut->last, -1, row_out(cut->segment), row_in(cut->segment)});
  summarizer.fold(ranges, {.ends = pointer<float>(summary->state),
                           .products = pointer<float>(summary->transition.values)});
}

void gated_delta_local(Context& ctx, const LinearStateCall& call, const LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_fwd(ctx, call, SegmentSet::kStarting, out);
  scan(ctx, call, SegmentSet::kStarting, out, out.saved, Spans::kGiven);
}

void gated_delta_fold(Context& ctx, const LinearStateCall& call, const LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_fwd(ctx, call, SegmentSet::kContinuing, out);
  scan(ctx, call, SegmentSet::kContinuing, out, out.saved, Spans::kGiven);
}

void gated_delta_dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                        const Tensor& dstate_in) {
  if (!is_bf16(call)) return recurrent_dstate(ctx, call, from.dout, dstate_in);
  const DeviceChunks chunks(ctx, call, SegmentSet::kContinuing, false);
  if (chunks.segments.empty()) return;
  const CallOperands x(ctx, call);
  const AlignedRows dout(ctx, from.dout);
  const SegmentCuts cuts = cuts_of(call);
  const Summarizer summarizer(ctx, x, chunks, dout.rows(), Direction::kBackward, from.saved);
  const std::vector<const SegmentCuts::Cut*> selected = cut_among(cuts, chunks.segments);
  summarizer.open_pieces(cuts, selected);
  summarizer.rows(uncut_among(cuts, chunks.segments), dstate_in, Tensor());
  std::vector<FoldRange> ranges;
  for (const SegmentCuts::Cut* cut : selected)
    ranges.push_back({cut->first, cut->last, -1, row_in(cut->segment), -1});
  summarizer.fold(ranges, {.ends = pointer<float>(dstate_in)});
}

void gated_delta_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& d) {
  if (!is_bf16(call)) return recurrent_bwd(ctx, call, SegmentSet::kInsideRow, from, d);
  backward(ctx, call, SegmentSet::kInsideRow, from, d, Spans::kGiven);
}

void gated_delta_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                          const LinearStateGradients& d) {
  if (!is_bf16(call)) return recurrent_bwd(ctx, call, SegmentSet::kEndingRow, from, d);
  backward(ctx, call, SegmentSet::kEndingRow, from, d, Spans::kGiven);
}

}  // namespace

void add_gated_delta_kernels(LinearStateKernels& kernels) {
  kernels.forward = gated_delta_fwd;
  kernels.backward = gated_delta_bwd;
  kernels.summarize = gated_delta_summarize;
  kernels.local = gated_delta_local;
  kernels.fold = gated_delta_fold;
  kernels.dstate = gated_delta_dstate;
  kernels.local_bwd = gated_delta_local_bwd;
  kernels.fold_bwd = gated_delta_fold_bwd;
  kernels.step = linear_step<StateWrite::kDelta>;
}

namespace delta {

void launch_summarize(cudaStream_t stream, const SummaryArgs& args) {
  with_width(args.problem.K, [&](auto k) { launch_summarize_of<decltype(k)::value>(stream, args); });
}

void launch_scan(cudaStream_t stream, const ScanArgs& args) {
  with_width(args.problem.K, [&](auto k) { launch_scan_of<decltype(k)::value>(stream, args); });
}

void launch_retreat(cudaStream_t stream, const RetreatArgs& args) {
  with_width(args.problem.K, [&](auto k) { launch_retreat_of<decltype(k)::value>(stream, args); });
}

void launch_gradients(cudaStream_t stream, const GradientArgs& args) {
  const auto of_values = [&](auto cols) {
    with_width(args.problem.V,
               [&](auto v) { launch_gradients_of<decltype(cols)::value, decltype(v)::value>(stream, args); });
  };
  if (key_columns(args.problem.K) == 64) return of_values(std::integral_constant<int, 64>());
  of_values(std::integral_constant<int, 128>());
}

}  // namespace delta

}  // namespace spanwise::cuda
