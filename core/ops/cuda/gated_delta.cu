// The host side of gated_delta on a GPU: which kernels run on which chunks. The kernels and what passes
// between them: gated_delta_chunks.cuh (bf16), gated_delta_recurrent.cuh (fp32, and single tokens).

#include "core/ops/gated_delta.h"

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/gated_delta_chunks.cuh"
#include "core/ops/cuda/gated_delta_finish.h"
#include "core/ops/cuda/gated_delta_parts.h"
#include "core/ops/cuda/gated_delta_recurrent.h"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

using namespace delta;

/// Tensors of LinearStateForward::saved. States and values are there only when backward will follow; those of
/// parts are undefined where no segment is cut. kPartStates: B, and in backward D.
enum Saved { kTheta, kScores, kFactors, kPartStates, kTransitions, kPasses, kStates, kValues, kNumSaved };

/// How a pass over parts stands to the spans' exchange (linear_state.h).
enum class Spans {
  kNone,
  kGiven,  ///< passes after summarize() and dstate(), which summarised the parts of rows' ends and starts
};

bool is_bf16(const LinearStateCall& call) {
  return call.q.dtype() == DType::kBF16;
}

void check_supported(const LinearStateCall& call) {
  const int64_t K = call.q.dim(3), V = call.v.dim(3);
  const auto supported = [](int64_t width) { return width == 64 || width == 128 || width == 256; };
  SPANWISE_CHECK(
      supported(K) && supported(V),
      "gated_delta in BF16 on a GPU has keys and values of 64, 128 or 256 columns a head, got {} and "
      "{}; use one of those or F32",
      K, V);
  SPANWISE_CHECK(
      call.chunks.max_length() <= kChunk,
      "gated_delta in BF16 on a GPU computes chunks of at most {} tokens, got {}; lower chunk_size", kChunk,
      call.chunks.max_length());
}

PartPlan plan_of(const LinearStateCall& call) {
  int device = 0, multiprocessors = 0;
  SPANWISE_CUDA(cudaGetDevice(&device));
  SPANWISE_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return PartPlan(call.chunks, int(call.v.dim(2)), int(call.q.dim(3)), int(call.v.dim(3)),
                  call.log_decay.defined(), multiprocessors);
}

std::vector<Tensor> allocate(Context& ctx, const LinearStateCall& call, int count) {
  const int64_t chunks = int64_t(call.chunks.chunks().size()), B = call.q.dim(0), HV = call.v.dim(2),
                K = call.q.dim(3), V = call.v.dim(3), parts = int64_t(plan_of(call).parts().size());
  const struct {
    Shape shape;
    DType dtype;
  } kinds[kNumSaved] = {{{chunks, HV, kChunk, kChunk}, DType::kBF16},
                        {{chunks, HV, kChunk, kChunk}, DType::kBF16},
                        {{chunks, HV, kFactorElems}, DType::kF32},
                        {{parts, HV, K, V}, DType::kF32},
                        {{parts, HV, K, K}, DType::kF32},
                        {{parts, HV}, DType::kF32},
                        {{call.chunks.num_states() + B, HV, V, K}, DType::kBF16},
                        {{chunks, HV, kChunk, V}, DType::kBF16}};
  std::vector<Tensor> tensors;
  for (int i = 0; i < count; ++i) {
    const bool of_parts = i == kPartStates || i == kTransitions || i == kPasses;
    tensors.push_back(of_parts && parts == 0 ? Tensor() : Tensor::empty(ctx, kinds[i].shape, kinds[i].dtype));
  }
  return tensors;
}

/// The rows of a tensor of `heads` x `width` a token, aligned for 16-byte accesses: a copy if they are not.
class AlignedRows {
 public:
  AlignedRows(Context& ctx, const Tensor& t) : tensor_(t) {
    if (!t.defined()) return;
    if (reinterpret_cast<uintptr_t>(t.raw()) % 16 != 0 || row_stride() % 8 != 0) {
      tensor_ = Tensor::empty(ctx, t.shape(), t.dtype());
      tensor_.copy_from(t);
    }
  }
  Rows rows() const {
    return tensor_.defined() ? Rows{pointer<bf16>(tensor_), row_stride()} : Rows{nullptr, 0};
  }

 private:
  int64_t row_stride() const { return tensor_.row_stride(tensor_.dim(2) * tensor_.dim(3)); }
  Tensor tensor_;
};

/// The chunks of a call on the GPU, and those that a kernel works on.
class DeviceChunks {
 public:
  DeviceChunks(Context& ctx, const LinearStateCall& call, SegmentSet which, bool has_dfinal)
      : segments(call.chunks.select(which)) {
    const std::vector<ChunkList::Chunk>& list = call.chunks.chunks();
    const int64_t states = call.chunks.num_states();
    std::vector<Chunk> chunks;
    for (const ChunkList::Chunk& c : list) chunks.push_back({int(c.begin), int(c.length), int(c.state), -1});
    for (const ChunkList::SegmentChunks& s : call.chunks.select(SegmentSet::kAll)) {
      if (s.continues && call.initial_state.defined()) chunks[s.first].state_in = int(states + s.row);
      for (int64_t i = s.first; i + 1 < s.last; ++i) chunks[i].state_out = chunks[i + 1].state_in;
      if (s.ends_row && has_dfinal) chunks[s.last - 1].state_out = int(states + s.row);
    }
    std::vector<int> selected;
    for (const ChunkList::SegmentChunks& s : segments) {
      for (int64_t i = s.first; i < s.last; ++i) selected.push_back(int(i));
    }
    num_chunks = int(chunks.size());
    num_selected = int(selected.size());
    chunks_ = shared_upload(ctx, chunks);
    if (num_selected > 0) selected_ = shared_upload(ctx, selected);
  }
  const Chunk* chunks() const { return static_cast<const Chunk*>(chunks_.raw()); }
  const int* selected() const { return static_cast<const int*>(selected_.raw()); }

  std::vector<ChunkList::SegmentChunks> segments;
  int num_chunks, num_selected;

 private:
  Tensor chunks_, selected_;
};

/// The operands of a call, ready for kernels.
struct Operands {
  Operands(Context& ctx, const LinearStateCall& call)
      : q(ctx, call.q), k(ctx, call.k), v(ctx, call.v), call(call) {
    check_supported(call);
  }
  Problem problem(const DeviceChunks& chunks) const {
    return {.chunks = chunks.chunks(),
            .num_chunks = chunks.num_chunks,
            .H = int(call.q.dim(2)),
            .HV = int(call.v.dim(2)),
            .K = int(call.q.dim(3)),
            .V = int(call.v.dim(3)),
            .scale = float(call.scale),
            .q = q.rows(),
            .k = k.rows()};
  }
  AlignedRows q, k, v;
  const LinearStateCall& call;
};

void prepare(Context& ctx, const Operands& x, const DeviceChunks& chunks, const std::vector<Tensor>& saved) {
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

// Rows and parts in the order of kernels: where a segment comes in or goes out, or -1.
int row_in(const ChunkList::SegmentChunks& s) {
  return s.continues ? int(s.row) : -1;
}
int row_out(const ChunkList::SegmentChunks& s) {
  return s.ends_row ? int(s.row) : -1;
}

/// What summarises whole segments, or their parts.
class Summarizer {
 public:
  Summarizer(Context& ctx, const Operands& x, const DeviceChunks& chunks, const Rows& values,
             Direction direction, const std::vector<Tensor>& saved)
      : ctx_(ctx),
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

  /// Segments that are not cut, each into the matrices of its row.
  void rows(const std::vector<ChunkList::SegmentChunks>& segments, const Tensor& states,
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
  /// The parts of segments but the last one in this direction. Backward the first starts from `start`,
  /// forward its M is there to be applied.
  void parts(const PartPlan& plan, const std::vector<const PartPlan::Cut*>& cuts, const float* start,
             Spans spans) const {
    const bool forward = args_.direction == Direction::kForward;
    std::vector<SummaryUnit> units;
    for (const PartPlan::Cut* cut : cuts) {
      // dstate() folds to the start of segments that go on from other spans.
      const bool whole = (start || spans == Spans::kGiven) && cut->segment.continues;
      for (int i = cut->first; i < cut->last; ++i) {
        const bool begins = i == cut->first, ends = i + 1 == cut->last;
        units.push_back({plan.parts()[size_t(i)].first, plan.parts()[size_t(i)].last,
                         !forward && start && ends ? row_out(cut->segment) : -1, i,
                         !(forward ? ends : begins), !ends && (!begins || whole)});
      }
    }
    SummaryArgs args = args_;
    args.start = start;
    launch(args, units);
  }
  /// All parts, of states that are not known yet.
  void open_parts(const PartPlan& plan, const std::vector<const PartPlan::Cut*>& cuts) const {
    std::vector<SummaryUnit> units;
    for (const PartPlan::Cut* cut : cuts) {
      for (int i = cut->first; i < cut->last; ++i)
        units.push_back({plan.parts()[size_t(i)].first, plan.parts()[size_t(i)].last, -1, i, 1,
                         i > cut->first || cut->segment.continues});
    }
    launch(args_, units);
  }

 private:
  void launch(SummaryArgs args, const std::vector<SummaryUnit>& units) const {
    if (units.empty()) return;
    const Tensor uploaded = shared_upload(ctx_, units);
    args.units = static_cast<const SummaryUnit*>(uploaded.raw());
    args.num_units = int(units.size());
    launch_summarize(stream_of(ctx_), args);
  }
  Context& ctx_;
  SummaryArgs args_;
};

/// Folds parts' summaries; `args` names the states.
void fold(Context& ctx, const std::vector<Tensor>& saved, const std::vector<FoldRange>& ranges,
          FoldArgs args) {
  if (ranges.empty()) return;
  const Tensor uploaded = shared_upload(ctx, ranges);
  args.ranges = static_cast<const FoldRange*>(uploaded.raw());
  args.num_ranges = int(ranges.size());
  args.HV = int(saved[kPartStates].dim(1));
  args.K = int(saved[kPartStates].dim(2));
  args.V = int(saved[kPartStates].dim(3));
  args.own = pointer<float>(saved[kPartStates]);
  args.transitions = pointer<float>(saved[kTransitions]);
  args.passes = pointer<float>(saved[kPasses]);
  launch_fold(stream_of(ctx), args);
}

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

/// What the blocks of a scan or retreat walk through; parts but the first (backward: the last) start from
/// states of their own.
std::vector<delta::Segment> walks_of(const PartPlan& plan,
                                     const std::vector<ChunkList::SegmentChunks>& segments,
                                     Direction direction) {
  std::vector<delta::Segment> walks;
  for (const ChunkList::SegmentChunks& s : segments) {
    const PartPlan::Cut* cut = plan.find(s.first);
    if (!cut) {
      walks.push_back({int(s.first), int(s.last), row_in(s), row_out(s), -1});
      continue;
    }
    for (int i = cut->first; i < cut->last; ++i) {
      const bool begins = i == cut->first, ends = i + 1 == cut->last;
      walks.push_back({plan.parts()[size_t(i)].first, plan.parts()[size_t(i)].last, begins ? row_in(s) : -1,
                       ends ? row_out(s) : -1, (direction == Direction::kForward ? begins : ends) ? -1 : i});
    }
  }
  return walks;
}

/// The states that the parts of `segments` start from, [parts, HV, K, V]; undefined if none is cut. `start`:
/// those of the rows. With spans, parts that `summarized` names are not summarised again.
template <class Summarized>
Tensor part_states(Context& ctx, const PartPlan& plan, const std::vector<ChunkList::SegmentChunks>& segments,
                   const Summarizer& summarizer, Direction direction, const float* start, Spans spans,
                   const std::vector<Tensor>& saved, Summarized&& summarized) {
  const std::vector<const PartPlan::Cut*> cuts = cuts_of(plan, segments);
  if (cuts.empty()) return Tensor();
  std::vector<const PartPlan::Cut*> open;
  std::vector<FoldRange> ranges;
  for (const PartPlan::Cut* cut : cuts) {
    const bool known = spans == Spans::kGiven && summarized(cut->segment);
    if (!known) open.push_back(cut);
    const bool forward = direction == Direction::kForward;
    const int row = forward ? row_in(cut->segment) : row_out(cut->segment);
    ranges.push_back({cut->first, cut->last, start && (forward || known) ? row : -1, -1, -1});
  }
  summarizer.parts(plan, open, start, spans);
  const Tensor states = Tensor::empty(ctx, saved[kPartStates].shape(), DType::kF32);
  fold(ctx, saved, ranges, {.direction = direction, .start = start, .states = pointer<float>(states)});
  return states;
}

/// Outputs and states of the segments `which` names, after prepare().
void scan(Context& ctx, const LinearStateCall& call, SegmentSet which, const LinearStateForward& f,
          const std::vector<Tensor>& saved, Spans spans) {
  const Operands x(ctx, call);
  const DeviceChunks chunks(ctx, call, which, false);
  if (chunks.segments.empty()) return;
  const PartPlan plan = plan_of(call);
  const float* initial = pointer<float>(call.initial_state);
  const Tensor parts =
      part_states(ctx, plan, chunks.segments,
                  Summarizer(ctx, x, chunks, x.v.rows(), Direction::kForward, saved), Direction::kForward,
                  initial, spans, saved, [](const ChunkList::SegmentChunks& s) { return s.ends_row; });
  const std::vector<delta::Segment> walks = walks_of(plan, chunks.segments, Direction::kForward);
  const Tensor uploaded = shared_upload(ctx, walks);
  const bool save = saved.size() == kNumSaved;
  launch_scan(stream_of(ctx), {.problem = x.problem(chunks),
                               .segments = static_cast<const delta::Segment*>(uploaded.raw()),
                               .num_segments = int(walks.size()),
                               .v = x.v.rows(),
                               .theta = pointer<bf16>(saved[kTheta]),
                               .scores = pointer<bf16>(saved[kScores]),
                               .factors = pointer<float>(saved[kFactors]),
                               .initial = initial,
                               .parts = pointer<float>(parts),
                               .final = pointer<float>(f.final_state),
                               .out = {pointer<bf16>(f.out), f.out.row_stride(f.out.dim(2) * f.out.dim(3))},
                               .states = save ? pointer<bf16>(saved[kStates]) : nullptr,
                               .values = save ? pointer<bf16>(saved[kValues]) : nullptr});
}

/// dstates, Z, and the gradients of incoming states, of the segments `which` names.
struct Retreated {
  Tensor dstates, z;
};
Retreated retreat(Context& ctx, const Operands& x, const DeviceChunks& chunks, const AlignedRows& dout,
                  const LinearStateCotangents& from, const Tensor& dinitial, Spans spans) {
  const PartPlan plan = plan_of(x.call);
  const float* dfinal = pointer<float>(from.dfinal_state);
  const Tensor parts = part_states(ctx, plan, chunks.segments,
                                   Summarizer(ctx, x, chunks, dout.rows(), Direction::kBackward, from.saved),
                                   Direction::kBackward, dfinal, spans, from.saved,
                                   [](const ChunkList::SegmentChunks& s) { return s.continues; });
  const std::vector<delta::Segment> walks = walks_of(plan, chunks.segments, Direction::kBackward);
  const Tensor uploaded = shared_upload(ctx, walks);
  const Retreated r{Tensor::empty(ctx, from.saved[kStates].shape(), DType::kBF16),
                    Tensor::empty(ctx, from.saved[kValues].shape(), DType::kBF16)};
  launch_retreat(stream_of(ctx), {.problem = x.problem(chunks),
                                  .segments = static_cast<const delta::Segment*>(uploaded.raw()),
                                  .num_segments = int(walks.size()),
                                  .dout = dout.rows(),
                                  .theta = pointer<bf16>(from.saved[kTheta]),
                                  .scores = pointer<bf16>(from.saved[kScores]),
                                  .factors = pointer<float>(from.saved[kFactors]),
                                  .dfinal = dfinal,
                                  .parts = pointer<float>(parts),
                                  .dinitial = pointer<float>(dinitial),
                                  .dstates = pointer<bf16>(r.dstates),
                                  .z = pointer<bf16>(r.z)});
  return r;
}

void backward(Context& ctx, const LinearStateCall& call, SegmentSet which, const LinearStateCotangents& from,
              const LinearStateGradients& out, Spans spans) {
  const Operands x(ctx, call);
  const DeviceChunks chunks(ctx, call, which, from.dfinal_state.defined());
  if (chunks.segments.empty()) return;
  const AlignedRows dout(ctx, from.dout);
  const Retreated r = retreat(ctx, x, chunks, dout, from, out.dinitial_state, spans);

  const int64_t H = call.q.dim(2), HV = call.v.dim(2), K = call.q.dim(3), V = call.v.dim(3);
  const int key_parts = int(K) / key_part(int(K));
  const Tensor parts = Tensor::empty(ctx, {2, key_parts, chunks.num_chunks, HV, kChunk}, DType::kF32);
  const bool shared = HV > H;
  const Shape per_value_head{call.q.dim(0), call.q.dim(1), HV, K};
  const Tensor dq = shared ? Tensor::empty(ctx, per_value_head, DType::kBF16) : out.dq,
               dk = shared ? Tensor::empty(ctx, per_value_head, DType::kBF16) : out.dk;
  const cudaStream_t stream = stream_of(ctx);
  launch_gradients(stream, {.problem = x.problem(chunks),
                            .selected = chunks.selected(),
                            .num_selected = chunks.num_selected,
                            .v = x.v.rows(),
                            .dout = dout.rows(),
                            .dq = {pointer<bf16>(dq), HV * K},
                            .dk = {pointer<bf16>(dk), HV * K},
                            .dv = {pointer<bf16>(out.dv), HV * V},
                            .factors = pointer<float>(from.saved[kFactors]),
                            .states = pointer<bf16>(from.saved[kStates]),
                            .dstates = pointer<bf16>(r.dstates),
                            .values = pointer<bf16>(from.saved[kValues]),
                            .z = pointer<bf16>(r.z),
                            .parts = pointer<float>(parts)});
  launch_finish(stream, {.chunks = chunks.chunks(),
                         .selected = chunks.selected(),
                         .num_chunks = chunks.num_chunks,
                         .num_selected = chunks.num_selected,
                         .HV = int(HV),
                         .key_parts = key_parts,
                         .parts = pointer<float>(parts),
                         .dlog_decay = pointer<float>(out.dlog_decay),
                         .dbeta = pointer<float>(out.dbeta)});
  if (!shared) return;
  for (const auto& [heads, sums] : {std::pair{dq, out.dq}, {dk, out.dk}}) {
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

}  // namespace

std::vector<Tensor> gated_delta_saved(Context& ctx, const LinearStateCall& call) {
  if (!is_bf16(call)) return allocate_chunk_states(ctx, call);
  check_supported(call);
  return allocate(ctx, call, kNumSaved);
}

void gated_delta_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_fwd(ctx, call, which, out);
  const std::vector<Tensor> saved = out.saved.empty() ? allocate(ctx, call, kStates) : out.saved;
  const Operands x(ctx, call);
  prepare(ctx, x, DeviceChunks(ctx, call, SegmentSet::kAll, false), saved);
  scan(ctx, call, which, out, saved, Spans::kNone);
}

void gated_delta_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateCotangents& from, const LinearStateGradients& out) {
  if (!is_bf16(call)) return recurrent_bwd(ctx, call, which, from, out);
  backward(ctx, call, which, from, out, Spans::kNone);
}

void gated_delta_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                           LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_summarize(ctx, call, summary);
  if (out.saved.empty()) out.saved = allocate(ctx, call, kStates);
  const Operands x(ctx, call);
  prepare(ctx, x, DeviceChunks(ctx, call, SegmentSet::kAll, false), out.saved);
  // Rows in which a document starts pass nothing on: their transition stays zero.
  const DeviceChunks ending(ctx, call, SegmentSet::kEndingRow, false);
  const PartPlan plan = plan_of(call);
  const Summarizer summarizer(ctx, x, ending, x.v.rows(), Direction::kForward, out.saved);
  const std::vector<const PartPlan::Cut*> cuts = cuts_of(plan, ending.segments);
  summarizer.open_parts(plan, cuts);
  if (!summary) return;
  summarizer.rows(uncut_of(plan, ending.segments), summary->state, summary->transition);
  std::vector<FoldRange> ranges;
  for (const PartPlan::Cut* cut : cuts)
    ranges.push_back({cut->first, cut->last, -1, row_out(cut->segment), row_in(cut->segment)});
  fold(ctx, out.saved, ranges,
       {.direction = Direction::kForward,
        .ends = pointer<float>(summary->state),
        .products = pointer<float>(summary->transition)});
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
  const Operands x(ctx, call);
  const AlignedRows dout(ctx, from.dout);
  const PartPlan plan = plan_of(call);
  const Summarizer summarizer(ctx, x, chunks, dout.rows(), Direction::kBackward, from.saved);
  const std::vector<const PartPlan::Cut*> cuts = cuts_of(plan, chunks.segments);
  summarizer.open_parts(plan, cuts);
  summarizer.rows(uncut_of(plan, chunks.segments), dstate_in, Tensor());
  std::vector<FoldRange> ranges;
  for (const PartPlan::Cut* cut : cuts)
    ranges.push_back({cut->first, cut->last, -1, row_in(cut->segment), -1});
  fold(ctx, from.saved, ranges, {.direction = Direction::kBackward, .ends = pointer<float>(dstate_in)});
}

void gated_delta_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& out) {
  if (!is_bf16(call)) return recurrent_bwd(ctx, call, SegmentSet::kInsideRow, from, out);
  backward(ctx, call, SegmentSet::kInsideRow, from, out, Spans::kGiven);
}

void gated_delta_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                          const LinearStateGradients& out) {
  if (!is_bf16(call)) return recurrent_bwd(ctx, call, SegmentSet::kEndingRow, from, out);
  backward(ctx, call, SegmentSet::kEndingRow, from, out, Spans::kGiven);
}

void gated_delta_step(Context& ctx, const LinearStateStep& step, const Tensor& out) {
  recurrent_step(ctx, step, out);
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
  if (key_part(args.problem.K) == 64) return of_values(std::integral_constant<int, 64>());
  of_values(std::integral_constant<int, 128>());
}

}  // namespace delta

}  // namespace spanwise::cuda
