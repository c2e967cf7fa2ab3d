// The host side of gated_delta on a GPU: which kernels run on which chunks. The kernels and what passes
// between them: gated_delta_chunks.cuh (bf16), gated_delta_recurrent.cuh (fp32, and single tokens).

#include "core/ops/gated_delta.h"

#include <optional>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/gated_delta_chunks.cuh"
#include "core/ops/cuda/gated_delta_finish.h"
#include "core/ops/cuda/gated_delta_parts.h"
#include "core/ops/cuda/gated_delta_recurrent.h"
#include "core/upload.h"

namespace spanwise::cuda {

namespace {

using namespace delta;

/// Tensors of LinearStateForward::saved. States and values are there only when backward will follow.
enum Saved { kTheta, kScores, kFactors, kStates, kValues, kNumSaved };

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

std::vector<Tensor> allocate(Context& ctx, const LinearStateCall& call, int count) {
  const int64_t chunks = int64_t(call.chunks.chunks().size()), B = call.q.dim(0), HV = call.v.dim(2),
                K = call.q.dim(3), V = call.v.dim(3);
  const Shape shapes[kNumSaved] = {{chunks, HV, kChunk, kChunk},
                                   {chunks, HV, kChunk, kChunk},
                                   {chunks, HV, kFactorElems},
                                   {call.chunks.num_states() + B, HV, V, K},
                                   {chunks, HV, kChunk, V}};
  std::vector<Tensor> tensors;
  for (int i = 0; i < count; ++i)
    tensors.push_back(Tensor::empty(ctx, shapes[i], i == kFactors ? DType::kF32 : DType::kBF16));
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

/// The chunks of a call and the segments that a kernel works on, on the GPU.
class DeviceChunks {
 public:
  DeviceChunks(Context& ctx, const LinearStateCall& call, SegmentSet which, bool has_dfinal) {
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
    for (const ChunkList::SegmentChunks& s : call.chunks.select(which)) {
      const int row = int(s.row);
      segments.push_back({int(s.first), int(s.last), s.continues ? row : -1, s.ends_row ? row : -1});
      for (int64_t i = s.first; i < s.last; ++i) selected.push_back(int(i));
    }
    num_chunks = int(chunks.size());
    num_selected = int(selected.size());
    chunks_ = upload(ctx, chunks);
    if (num_selected > 0) selected_ = upload(ctx, selected);
  }
  const Chunk* chunks() const { return static_cast<const Chunk*>(chunks_.raw()); }
  const int* selected() const { return static_cast<const int*>(selected_.raw()); }

  std::vector<delta::Segment> segments;
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

ScanArgs scan_args(const Operands& x, const DeviceChunks& chunks, const std::vector<Tensor>& saved) {
  return {.problem = x.problem(chunks),
          .segments = nullptr,
          .num_segments = 0,
          .v = x.v.rows(),
          .theta = pointer<bf16>(saved[kTheta]),
          .scores = pointer<bf16>(saved[kScores]),
          .factors = pointer<float>(saved[kFactors]),
          .from_identity = false,
          .initial = pointer<float>(x.call.initial_state),
          .final = nullptr,
          .out = {nullptr, 0},
          .states = nullptr,
          .values = nullptr};
}

template <class Args>
void launch(Context& ctx, Args args, const std::vector<delta::Segment>& segments) {
  if (segments.empty()) return;
  const Tensor uploaded = upload(ctx, segments);
  args.segments = static_cast<const delta::Segment*>(uploaded.raw());
  args.num_segments = int(segments.size());
  if constexpr (std::is_same_v<Args, ScanArgs>) {
    launch_scan(stream_of(ctx), args);
  } else {
    launch_retreat(stream_of(ctx), args);
  }
}

PartPlan plan_of(const Context& ctx, const LinearStateCall& call, const DeviceChunks& chunks) {
  int device = 0, multiprocessors = 0;
  SPANWISE_CUDA(cudaGetDevice(&device));
  SPANWISE_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return plan_parts(chunks.segments, int(call.v.dim(2)), int(call.q.dim(3)), int(call.v.dim(3)),
                    multiprocessors);
}

/// The buffers of a scan in parts, with M of every part that is neither its segment's first nor its last.
class Parts {
 public:
  Parts(Context& ctx, const Operands& x, const DeviceChunks& chunks, const PartPlan& plan,
        const std::vector<Tensor>& saved)
      : plan_(plan) {
    const int64_t count = int64_t(plan.parts.size()), HV = x.call.v.dim(2), K = x.call.q.dim(3),
                  V = x.call.v.dim(3);
    own = Tensor::empty(ctx, {count, HV, K, V}, DType::kF32);
    states = Tensor::empty(ctx, {count, HV, K, V}, DType::kF32);
    transitions_ = Tensor::empty(ctx, {count, HV, K, K}, DType::kF32);
    ScanArgs args = scan_args(x, chunks, saved);
    args.problem.V = args.problem.K;
    args.v = {nullptr, 0};
    args.from_identity = true;
    args.initial = nullptr;
    args.final = pointer<float>(transitions_);
    launch(ctx, args, select([](const PartRange& r, int part, delta::Segment s) {
             return part > r.first && part + 1 < r.last ? std::optional(s) : std::nullopt;
           }));
  }
  /// fn(range, part, its chunks) for every part: the segment to scan, if any.
  template <class F>
  std::vector<delta::Segment> select(F&& fn) const {
    std::vector<delta::Segment> selected;
    for (const PartRange& r : plan_.ranges) {
      for (int part = r.first; part < r.last; ++part) {
        const std::optional<delta::Segment> s = fn(r, part, plan_.parts[size_t(part)]);
        if (s) selected.push_back(*s);
      }
    }
    return selected;
  }
  void fold(Context& ctx, FoldOrder order, const float* start) const {
    const Tensor ranges = upload(ctx, plan_.ranges);
    launch_fold(stream_of(ctx), {.ranges = static_cast<const PartRange*>(ranges.raw()),
                                 .num_ranges = int(plan_.ranges.size()),
                                 .HV = int(own.dim(1)),
                                 .K = int(own.dim(2)),
                                 .V = int(own.dim(3)),
                                 .order = order,
                                 .start = start,
                                 .own = pointer<float>(own),
                                 .transitions = pointer<float>(transitions_),
                                 .states = pointer<float>(states)});
  }
  Tensor own, states;

 private:
  const PartPlan& plan_;
  Tensor transitions_;
};

/// Outputs and states of the segments `which` names, after prepare().
void scan(Context& ctx, const LinearStateCall& call, SegmentSet which, const LinearStateForward& f,
          const std::vector<Tensor>& saved) {
  const Operands x(ctx, call);
  const DeviceChunks chunks(ctx, call, which, false);
  if (chunks.segments.empty()) return;
  ScanArgs args = scan_args(x, chunks, saved);
  args.final = pointer<float>(f.final_state);
  args.out = {pointer<bf16>(f.out), f.out.row_stride(f.out.dim(2) * f.out.dim(3))};
  if (saved.size() == kNumSaved) {
    args.states = pointer<bf16>(saved[kStates]);
    args.values = pointer<bf16>(saved[kValues]);
  }
  const PartPlan plan = plan_of(ctx, call, chunks);
  if (!plan.split()) return launch(ctx, args, chunks.segments);
  const Parts parts(ctx, x, chunks, plan, saved);
  ScanArgs first = scan_args(x, chunks, saved);
  first.final = pointer<float>(parts.own);
  launch(ctx, first, parts.select([](const PartRange& r, int part, delta::Segment s) {
    return part + 1 < r.last
               ? std::optional(delta::Segment{s.first, s.last, part == r.first ? r.initial : -1, part})
               : std::nullopt;
  }));
  parts.fold(ctx, FoldOrder::kForward, args.initial);
  args.initial = pointer<float>(parts.states);
  launch(ctx, args, parts.select([](const PartRange& r, int part, delta::Segment s) {
    return std::optional(delta::Segment{s.first, s.last, part, part + 1 == r.last ? r.final : -1});
  }));
}

/// dstates, Z, and the gradients of incoming states, of the segments `which` names.
struct Retreated {
  Tensor dstates, z;
};
Retreated retreat(Context& ctx, const Operands& x, const DeviceChunks& chunks, const AlignedRows& dout,
                  const LinearStateCotangents& from, const Tensor& dinitial, bool states_only) {
  Retreated r;
  if (!states_only) {
    r.dstates = Tensor::empty(ctx, from.saved[kStates].shape(), DType::kBF16);
    r.z = Tensor::empty(ctx, from.saved[kValues].shape(), DType::kBF16);
  }
  RetreatArgs args{.problem = x.problem(chunks),
                   .segments = nullptr,
                   .num_segments = 0,
                   .dout = dout.rows(),
                   .theta = pointer<bf16>(from.saved[kTheta]),
                   .scores = pointer<bf16>(from.saved[kScores]),
                   .factors = pointer<float>(from.saved[kFactors]),
                   .dfinal = states_only ? nullptr : pointer<float>(from.dfinal_state),
                   .dinitial = pointer<float>(dinitial),
                   .dstates = pointer<bf16>(r.dstates),
                   .z = pointer<bf16>(r.z)};
  const PartPlan plan = plan_of(ctx, x.call, chunks);
  if (!plan.split()) {
    launch(ctx, args, chunks.segments);
    return r;
  }
  const Parts parts(ctx, x, chunks, plan, from.saved);
  RetreatArgs first = args;
  first.dinitial = pointer<float>(parts.own);
  first.dstates = first.z = nullptr;
  launch(ctx, first, parts.select([](const PartRange& r, int part, delta::Segment s) {
    return part > r.first
               ? std::optional(delta::Segment{s.first, s.last, part, part + 1 == r.last ? r.final : -1})
               : std::nullopt;
  }));
  parts.fold(ctx, FoldOrder::kBackward, args.dfinal);
  args.dfinal = pointer<float>(parts.states);
  launch(ctx, args, parts.select([](const PartRange& r, int part, delta::Segment s) {
    return std::optional(delta::Segment{s.first, s.last, part == r.first ? r.initial : -1, part});
  }));
  return r;
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
  scan(ctx, call, which, out, saved);
}

void gated_delta_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                     const LinearStateCotangents& from, const LinearStateGradients& out) {
  if (!is_bf16(call)) return recurrent_bwd(ctx, call, which, from, out);
  const Operands x(ctx, call);
  const DeviceChunks chunks(ctx, call, which, from.dfinal_state.defined());
  if (chunks.segments.empty()) return;
  const AlignedRows dout(ctx, from.dout);
  const Retreated r = retreat(ctx, x, chunks, dout, from, out.dinitial_state, false);

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

void gated_delta_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                           LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_summarize(ctx, call, summary);
  if (out.saved.empty()) out.saved = allocate(ctx, call, kStates);
  const Operands x(ctx, call);
  prepare(ctx, x, DeviceChunks(ctx, call, SegmentSet::kAll, false), out.saved);
  if (!summary) return;
  const DeviceChunks ending(ctx, call, SegmentSet::kEndingRow, false);
  ScanArgs args = scan_args(x, ending, out.saved);
  args.final = pointer<float>(summary->state);
  launch(ctx, args, ending.segments);
  // M obeys the recurrence with v = 0 from the identity; rows in which a document starts pass nothing on.
  const DeviceChunks passing(ctx, call, SegmentSet::kPassing, false);
  if (passing.segments.empty()) return;
  args = scan_args(x, passing, out.saved);
  args.problem.V = args.problem.K;
  args.v = {nullptr, 0};
  args.from_identity = true;
  args.final = pointer<float>(summary->transition);
  launch(ctx, args, passing.segments);
}

void gated_delta_local(Context& ctx, const LinearStateCall& call, const LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_fwd(ctx, call, SegmentSet::kStarting, out);
  scan(ctx, call, SegmentSet::kStarting, out, out.saved);
}

void gated_delta_fold(Context& ctx, const LinearStateCall& call, const LinearStateForward& out) {
  if (!is_bf16(call)) return recurrent_fwd(ctx, call, SegmentSet::kContinuing, out);
  scan(ctx, call, SegmentSet::kContinuing, out, out.saved);
}

void gated_delta_dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                        const Tensor& dstate_in) {
  if (!is_bf16(call)) return recurrent_dstate(ctx, call, from.dout, dstate_in);
  const DeviceChunks chunks(ctx, call, SegmentSet::kContinuing, false);
  if (chunks.segments.empty()) return;
  retreat(ctx, Operands(ctx, call), chunks, AlignedRows(ctx, from.dout), from, dstate_in, true);
}

void gated_delta_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& out) {
  gated_delta_bwd(ctx, call, SegmentSet::kInsideRow, from, out);
}

void gated_delta_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                          const LinearStateGradients& out) {
  gated_delta_bwd(ctx, call, SegmentSet::kEndingRow, from, out);
}

void gated_delta_step(Context& ctx, const LinearStateStep& step, const Tensor& out) {
  recurrent_step(ctx, step, out);
}

namespace delta {

void launch_scan(cudaStream_t stream, const ScanArgs& args) {
  switch (args.problem.K) {
    case 64:
      return launch_scan_of<64>(stream, args);
    case 128:
      return launch_scan_of<128>(stream, args);
    case 256:
      return launch_scan_of<256>(stream, args);
  }
}

void launch_retreat(cudaStream_t stream, const RetreatArgs& args) {
  switch (args.problem.K) {
    case 64:
      return launch_retreat_of<64>(stream, args);
    case 128:
      return launch_retreat_of<128>(stream, args);
    case 256:
      return launch_retreat_of<256>(stream, args);
  }
}

void launch_gradients(cudaStream_t stream, const GradientArgs& args) {
  const auto of_values = [&](auto cols) {
    constexpr int kCols = decltype(cols)::value;
    switch (args.problem.V) {
      case 64:
        return launch_gradients_of<kCols, 64>(stream, args);
      case 128:
        return launch_gradients_of<kCols, 128>(stream, args);
      case 256:
        return launch_gradients_of<kCols, 256>(stream, args);
    }
  };
  if (key_part(args.problem.K) == 64) return of_values(std::integral_constant<int, 64>());
  of_values(std::integral_constant<int, 128>());
}

}  // namespace delta

}  // namespace spanwise::cuda
