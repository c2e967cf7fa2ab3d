#include "core/ops/linear_state.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "core/dispatch.h"

namespace spanwise {

namespace {

void check_shape(const char* name, const Tensor& t, const Shape& expected, DType dtype) {
  if (!t.defined()) return;
  SPANWISE_CHECK(t.shape() == expected && t.dtype() == dtype, "{} is {} {}, expected {} {}", name,
                 name_of(t.dtype()), t.shape().str(), name_of(dtype), expected.str());
}

void check_heads(int64_t key_heads, int64_t value_heads) {
  SPANWISE_CHECK(key_heads >= 1 && value_heads % key_heads == 0,
                 "{} value heads are not a multiple of {} key heads", value_heads, key_heads);
}

void check_call(const LinearStateCall& c, const SequenceLayout& layout) {
  SPANWISE_CHECK(c.q.num_dims() == 4 && c.v.num_dims() == 4,
                 "q {} and v {} must have 4 dimensions: [batch, length, heads, width]", c.q.shape().str(),
                 c.v.shape().str());
  const int64_t B = layout.batch(), T = layout.length(), H = c.q.dim(2), K = c.q.dim(3), HV = c.v.dim(2),
                V = c.v.dim(3);
  const DType dtype = c.q.dtype(), precise = accumulation_dtype(dtype);
  check_heads(H, HV);
  check_shape("q", c.q, {B, T, H, K}, dtype);
  check_shape("k", c.k, {B, T, H, K}, dtype);
  check_shape("v", c.v, {B, T, HV, V}, dtype);
  check_shape("log_decay", c.log_decay, {B, T, HV}, precise);
  check_shape("the decay per head", c.head_log_decay, {HV}, precise);
  check_shape("beta", c.beta, {B, T, HV}, precise);
  check_shape("initial_state", c.initial_state, {B, HV, K, V}, precise);
  SPANWISE_CHECK(!(c.log_decay.defined() && c.head_log_decay.defined()),
                 "the decay is given both per token and per head; give one");
}

Shape state_shape(const LinearStateCall& c) {
  return {c.q.dim(0), c.v.dim(2), c.q.dim(3), c.v.dim(3)};
}

Tensor empty_like(Context& ctx, const Adjoint& v) {
  return Tensor::empty(ctx, v.shape(), v.dtype());
}

Tensor empty_if_needed(Context& ctx, const Adjoint& v) {
  return v.requires_grad() ? empty_like(ctx, v) : Tensor();
}

struct OperandAdjoints {
  Adjoint q, k, v, log_decay, beta, initial_state;
};

void check_exchanged(const char* name, const Tensor& t, const LinearStateCall& call) {
  SPANWISE_CHECK(t.defined() && t.contiguous(), "the exchange of spans gave no contiguous {}", name);
  check_shape(name, t, state_shape(call), accumulation_dtype(call.q.dtype()));
}

SpanSummary make_summary(Context& ctx, const LinearStateCall& call) {
  const DType dtype = accumulation_dtype(call.q.dtype());
  const int64_t R = call.q.dim(0), HV = call.v.dim(2), K = call.q.dim(3);
  const bool dense = call.beta.defined(), decays = call.log_decay.defined() || call.head_log_decay.defined();
  SpanSummary summary;
  if (dense) summary.transition = Tensor::zeros(ctx, {R, HV, K, K}, dtype);
  if (decays && !dense) summary.log_decay = Tensor::empty(ctx, {R, HV}, dtype);
  summary.state = Tensor::empty(ctx, state_shape(call), dtype);
  return summary;
}

/// One call's stages: kernels, or on a dry Context what they take.
class Stages {
 public:
  Stages(Context& ctx, const LinearStateKernels& kernels, const LinearStateCall& call)
      : ctx_(ctx), kernels_(kernels), call_(call) {}

  void forward(const LinearStateForward& f) const {
    run({.stage = LinearStage::kForward, .saves = !f.saved.empty()}, kernels_.forward, SegmentSet::kAll, f);
  }
  void backward(const LinearStateCotangents& from, const LinearStateGradients& g) const {
    run(backward_input(LinearStage::kBackward, from, g), kernels_.backward, SegmentSet::kAll, from, g);
  }
  void summarize(const SpanSummary* summary, const LinearStateForward& f) const {
    run({.stage = LinearStage::kSummarize, .saves = !f.saved.empty(), .summary = summary != nullptr},
        kernels_.summarize, summary, f);
  }
  void local(const LinearStateForward& f) const {
    run({.stage = LinearStage::kLocal, .saves = !f.saved.empty()}, kernels_.local, f);
  }
  void fold(const LinearStateForward& f) const {
    run({.stage = LinearStage::kFold, .saves = !f.saved.empty()}, kernels_.fold, f);
  }
  void dstate(const LinearStateCotangents& from, const Tensor& dstate_in) const {
    run({.stage = LinearStage::kDstate}, kernels_.dstate, from, dstate_in);
  }
  void local_bwd(const LinearStateCotangents& from, const LinearStateGradients& g) const {
    run(backward_input(LinearStage::kLocalBwd, from, g), kernels_.local_bwd, from, g);
  }
  void fold_bwd(const LinearStateCotangents& from, const LinearStateGradients& g) const {
    run(backward_input(LinearStage::kFoldBwd, from, g), kernels_.fold_bwd, from, g);
  }

 private:
  static LinearStageInput backward_input(LinearStage stage, const LinearStateCotangents& from,
                                         const LinearStateGradients& g) {
    return {
        .stage = stage, .dlog_decay = g.dlog_decay.defined(), .dfinal_state = from.dfinal_state.defined()};
  }
  template <class Kernel, class... Arguments>
  void run(const LinearStageInput& input, Kernel* kernel, const Arguments&... arguments) const {
    if (ctx_.dry()) return kernels_.temporaries(ctx_, call_, input);
    kernel(ctx_, call_, arguments...);
  }

  Context& ctx_;
  const LinearStateKernels& kernels_;
  const LinearStateCall& call_;
};

double operand_bytes(const LinearStateCall& c) {
  return bytes_of(c.q, c.k, c.v, c.log_decay, c.beta, c.initial_state);
}

void count_forward(Context& ctx, const LinearStateKernels& kernels, const LinearStateCall& call,
                   const LinearStateForward& f, bool summarized) {
  const LinearStateFlops flops = kernels.flops(shape_of(call), call.chunks);
  double bytes = operand_bytes(call) + bytes_of(f.out, f.final_state);
  for (const Tensor& t : f.saved) bytes += bytes_of(t);
  ctx.count({.flops = flops.forward, .recomputed_flops = summarized ? flops.summary : 0, .bytes = bytes});
}

void count_backward(Context& ctx, const LinearStateKernels& kernels, const LinearStateCall& call,
                    const LinearStateCotangents& from, const LinearStateGradients& g, bool exchanged) {
  const LinearStateFlops flops = kernels.flops(shape_of(call), call.chunks);
  double bytes = operand_bytes(call) + bytes_of(from.dout, from.dfinal_state, g.dq, g.dk, g.dv, g.dlog_decay,
                                                g.dbeta, g.dinitial_state);
  for (const Tensor& t : from.saved) bytes += bytes_of(t);
  ctx.count({.flops = 2 * flops.forward, .recomputed_flops = exchanged ? flops.summary : 0, .bytes = bytes});
}

LinearStateForward allocate_forward(Context& ctx, const LinearStateCall& call,
                                    const LinearStateKernels& kernels, bool save) {
  const DType dtype = call.q.dtype();
  LinearStateForward f;
  f.out = Tensor::empty(ctx, call.v.shape(), dtype);
  f.final_state = Tensor::empty(ctx, state_shape(call), accumulation_dtype(dtype));
  if (save) f.saved = kernels.allocate_saved(ctx, call);
  return f;
}

// Forward of rows that are spans. Sets call.initial_state; returns what backward needs of the other spans.
std::shared_ptr<const void> forward_spans(Tape& tape, const LinearStateKernels& kernels,
                                          SpanExchange& exchange, LinearStateCall& call,
                                          LinearStateForward& f) {
  Context& ctx = tape.context();
  std::unique_ptr<SpanExchange::Forward> started;
  const Stages stages(ctx, kernels, call);
  if (tape.replays()) {
    if (f.saved.empty()) f.saved = kernels.allocate_passed(ctx, call);
    stages.summarize(nullptr, f);
  } else {
    const SpanSummary summary = make_summary(ctx, call);
    if (f.saved.empty()) f.saved = kernels.allocate_passed(ctx, call);
    stages.summarize(&summary, f);
    started = exchange.start_forward(summary);
  }
  stages.local(f);
  IncomingState incoming = tape.once([&] { return started->wait(); });
  check_exchanged("incoming state", incoming.state, call);
  call.initial_state = std::move(incoming.state);
  stages.fold(f);
  count_forward(ctx, kernels, call, f, !tape.replays());
  return std::move(incoming.saved);
}

/// What backward reads of a call, and how to compute again what forward saved.
class SavedCall {
 public:
  SavedCall(const LinearStateVars& x, LinearStateCall call, const LinearStateKernels& kernels, bool spans)
      : q_(x.q.saved()),
        k_(x.k.saved()),
        v_(x.v.saved()),
        log_decay_(x.log_decay.saved()),
        beta_(x.beta.saved()),
        rest_(std::move(call)),
        kernels_(kernels),
        spans_(spans) {
    for (Tensor* t : {&rest_.q, &rest_.k, &rest_.v, &rest_.log_decay, &rest_.beta}) *t = {};
  }

  LinearStateCall get() const {
    LinearStateCall call = rest_;
    call.q = q_.get();
    call.k = k_.get();
    call.v = v_.get();
    call.log_decay = log_decay_.get();
    call.beta = beta_.get();
    return call;
  }

  void keep(std::vector<Tensor> saved) { saved_ = std::move(saved); }
  const std::vector<Tensor>& saved(Context& ctx) {
    if (!saved_) forward_again(ctx);
    return *saved_;
  }
  /// Returns out, in the forward's bits, and keeps what it saved.
  Tensor forward_again(Context& ctx) {
    const Recomputation again(ctx);
    LinearStateCall call = get();
    LinearStateForward f = allocate_forward(ctx, call, kernels_, /*save=*/true);
    const Stages stages(ctx, kernels_, call);
    if (spans_) {  // as forward_spans does, which the incoming state reaches last
      const Tensor incoming = std::move(call.initial_state);
      call.initial_state = {};
      stages.summarize(nullptr, f);
      stages.local(f);
      call.initial_state = incoming;
      stages.fold(f);
    } else {
      stages.forward(f);
    }
    count_forward(ctx, kernels_, call, f, /*summarized=*/false);
    keep(std::move(f.saved));
    return f.out;
  }

 private:
  Saved q_, k_, v_, log_decay_, beta_;
  LinearStateCall rest_;
  LinearStateKernels kernels_;
  bool spans_;
  std::optional<std::vector<Tensor>> saved_;
};

void backward_spans(Context& ctx, const LinearStateKernels& kernels, SpanExchange& exchange,
                    const std::shared_ptr<const void>& saved, const LinearStateCall& call,
                    LinearStateCotangents from, const LinearStateGradients& g) {
  SPANWISE_CHECK(
      !from.dfinal_state.defined(),
      "the last state of a span has a gradient of its own; with an exchange only the next span may "
      "use that state");
  const Tensor dstate_in = Tensor::zeros(ctx, state_shape(call), accumulation_dtype(call.q.dtype()));
  const Stages stages(ctx, kernels, call);
  stages.dstate(from, dstate_in);
  const std::unique_ptr<SpanExchange::Backward> started = exchange.start_backward(dstate_in, saved);
  stages.local_bwd(from, g);
  from.dfinal_state = started->wait();
  check_exchanged("gradient of the last state", from.dfinal_state, call);
  stages.fold_bwd(from, g);
}

}  // namespace

ChunkList::ChunkList(const SequenceLayout& layout, int64_t chunk) {
  SPANWISE_CHECK(chunk >= 1, "a chunk of {} tokens is empty", chunk);
  for (int64_t i = 0; i < int64_t(layout.segments().size()); ++i) {
    const Segment& s = layout.segments()[i];
    SegmentChunks segment{s.row, int64_t(chunks_.size()), 0, s.continues, i + 1 == layout.row_end(s.row)};
    for (int64_t t = s.begin; t < s.end; t += chunk) {
      const int64_t length = std::min(chunk, s.end - t);
      chunks_.push_back({s.row * layout.length() + t, length, t == s.begin ? -1 : num_states_++});
      max_length_ = std::max(max_length_, length);
    }
    segment.last = int64_t(chunks_.size());
    segments_.push_back(segment);
  }
}

std::vector<ChunkList::SegmentChunks> ChunkList::select(SegmentSet which) const {
  std::vector<SegmentChunks> selected;
  for (const SegmentChunks& s : segments_) {
    const bool in = which == SegmentSet::kContinuing  ? s.continues
                    : which == SegmentSet::kStarting  ? !s.continues
                    : which == SegmentSet::kEndingRow ? s.ends_row
                    : which == SegmentSet::kInsideRow ? !s.ends_row
                    : which == SegmentSet::kPassing   ? s.continues && s.ends_row
                                                      : true;
    if (in) selected.push_back(s);
  }
  return selected;
}

std::vector<Tensor> allocate_chunk_states(Context& ctx, const LinearStateCall& call) {
  const Shape state = state_shape(call);
  return {Tensor::empty(ctx, {call.chunks.num_states(), state[1], state[2], state[3]},
                        accumulation_dtype(call.q.dtype()))};
}

int64_t chunk_state_bytes(const LinearStateShape& s, const ChunkList& chunks) {
  return chunks.num_states() * s.value_heads * s.key_dim * s.value_dim *
         int64_t(size_of(accumulation_dtype(s.dtype)));
}

int64_t value_head_gradient_bytes(const LinearStateShape& s) {
  return s.tokens() * s.value_heads * s.key_dim * int64_t(size_of(s.dtype));
}

LinearStateShape shape_of(const LinearStateCall& call) {
  return {.rows = call.q.dim(0),
          .length = call.q.dim(1),
          .key_heads = call.q.dim(2),
          .value_heads = call.v.dim(2),
          .key_dim = call.q.dim(3),
          .value_dim = call.v.dim(3),
          .dtype = call.q.dtype(),
          .token_decay = call.log_decay.defined()};
}

LinearStateResult linear_state(Tape& tape, const LinearStateVars& x, const SequenceLayout& layout,
                               const LinearStateOptions& options, const LinearStateKernels& kernels) {
  Context& ctx = tape.context();
  LinearStateCall call{.q = x.q.value(),
                       .k = x.k.value(),
                       .v = x.v.value(),
                       .log_decay = x.log_decay.saved().get(),
                       .head_log_decay = x.head_log_decay,
                       .beta = x.beta.saved().get(),
                       .initial_state = x.initial_state.saved().get(),
                       .chunks = ChunkList(layout, options.chunk),
                       .scale = options.scale};
  check_call(call, layout);
  SpanExchange* exchange = options.exchange;
  SPANWISE_CHECK(!exchange || !call.initial_state.defined(),
                 "a span's initial_state comes from the exchange; give one of the two");
  if (call.initial_state.defined()) call.initial_state = call.initial_state.to_contiguous(ctx);

  const std::vector<Var> inputs{x.q, x.k, x.v, x.log_decay, x.beta, x.initial_state};
  const bool save = tape.saving() &&
                    std::any_of(inputs.begin(), inputs.end(), [](const Var& v) { return v.requires_grad(); });
  LinearStateForward f = allocate_forward(ctx, call, kernels, save);
  std::shared_ptr<const void> saved;
  if (exchange) {
    saved = forward_spans(tape, kernels, *exchange, call, f);
  } else {
    Stages(ctx, kernels, call).forward(f);
    count_forward(ctx, kernels, call, f, /*summarized=*/false);
  }

  LinearStateResult result;
  result.out = tape.output(f.out, inputs);
  result.final_state = tape.output(f.final_state, {x.k, x.v, x.log_decay, x.beta, x.initial_state});
  if (!save) return result;
  const auto held = std::make_shared<SavedCall>(x, std::move(call), kernels, exchange != nullptr);
  if (options.recompute) tape.recompute_by(result.out, [&ctx, held] { return held->forward_again(ctx); });
  if (!result.out.saved().recomputable()) held->keep(std::move(f.saved));
  tape.record(inputs, {result.out, result.final_state},
              [&ctx, held, kernels, exchange, saved,
               x = OperandAdjoints{x.q, x.k, x.v, x.log_decay, x.beta, x.initial_state},
               out = result.out.adjoint(), final_state = result.final_state.adjoint()] {
                LinearStateCotangents from{held->saved(ctx), out.grad_or_zeros(ctx), final_state.grad()};
                const LinearStateCall call = held->get();
                LinearStateGradients g;
                g.dq = empty_like(ctx, x.q);
                g.dk = empty_like(ctx, x.k);
                g.dv = empty_like(ctx, x.v);
                g.dlog_decay = empty_if_needed(ctx, x.log_decay);
                if (x.beta.defined()) g.dbeta = empty_like(ctx, x.beta);
                if (x.initial_state.requires_grad())
                  g.dinitial_state = Tensor::zeros(ctx, x.initial_state.shape(), x.initial_state.dtype());
                if (from.dfinal_state.defined()) from.dfinal_state = from.dfinal_state.to_contiguous(ctx);
                if (exchange) {
                  backward_spans(ctx, kernels, *exchange, saved, call, from, g);
                } else {
                  Stages(ctx, kernels, call).backward(from, g);
                }
                count_backward(ctx, kernels, call, from, g, exchange != nullptr);
                x.q.add_grad(ctx, g.dq);
                x.k.add_grad(ctx, g.dk);
                x.v.add_grad(ctx, g.dv);
                x.log_decay.add_grad(ctx, g.dlog_decay);
                x.beta.add_grad(ctx, g.dbeta);
                x.initial_state.add_grad(ctx, g.dinitial_state);
              });
  return result;
}

Tensor check_linear_state_step(Context& ctx, const LinearStateStep& s) {
  SPANWISE_CHECK(s.q.num_dims() == 3 && s.v.num_dims() == 3,
                 "q {} and v {} must have 3 dimensions: [batch, heads, width]", s.q.shape().str(),
                 s.v.shape().str());
  const int64_t B = s.q.dim(0), H = s.q.dim(1), K = s.q.dim(2), HV = s.v.dim(1), V = s.v.dim(2);
  const DType dtype = s.q.dtype(), precise = accumulation_dtype(dtype);
  check_heads(H, HV);
  check_shape("k", s.k, {B, H, K}, dtype);
  check_shape("v", s.v, {B, HV, V}, dtype);
  check_shape("log_decay", s.log_decay, {B, HV}, precise);
  check_shape("the decay per head", s.head_log_decay, {HV}, precise);
  check_shape("beta", s.beta, {B, HV}, precise);
  check_shape("state", s.state, {B, HV, K, V}, precise);
  SPANWISE_CHECK(s.state.defined() && s.state.contiguous(), "a step needs a contiguous state");
  SPANWISE_CHECK(!(s.log_decay.defined() && s.head_log_decay.defined()),
                 "the decay is given both per token and per head; give one");
  return Tensor::empty(ctx, s.v.shape(), dtype);
}

}  // namespace spanwise
