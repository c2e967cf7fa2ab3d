#include "core/ops/linear_state.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "core/dispatch.h"
#include "core/ops/linear_kernels.h"

namespace spanwise {

namespace {

std::string names_of(const LinearOperandSet& operands) {
  std::string names;
  for_each_operand([&](const LinearOperandRule& rule) {
    if (operands.has(rule.operand)) names += std::string(names.empty() ? "" : ", ") + rule.name;
  });
  return names;
}

void check_shape(const char* name, const Tensor& t, const Shape& expected, DType dtype) {
  SPANWISE_CHECK(t.shape() == expected && t.dtype() == dtype, "{} is {} {}, expected {} {}", name,
                 name_of(t.dtype()), t.shape().str(), name_of(dtype), expected.str());
}

/// Everything about the operands of `rows` rows of `length` tokens.
void check_operands(const LinearFamily& family, const LinearOperands<Tensor>& x, int64_t rows,
                    int64_t length) {
  for_each_operand(
      [&](const LinearOperandRule& rule, const Tensor& t) {
        SPANWISE_CHECK(t.defined() || !family.needs.has(rule.operand), "{} needs {}", family.name, rule.name);
        SPANWISE_CHECK(!t.defined() || family.needs.has(rule.operand) || family.takes.has(rule.operand),
                       "{} takes no {}; it needs {} and takes {}", family.name, rule.name,
                       names_of(family.needs), names_of(family.takes));
      },
      x);
  SPANWISE_CHECK(x.q.num_dims() == 4 && x.v.num_dims() == 4,
                 "q {} and v {} must have 4 dimensions: [batch, length, heads, width]", x.q.shape().str(),
                 x.v.shape().str());
  LinearStateShape shape = shape_of(x);
  shape.rows = rows;
  shape.length = length;
  SPANWISE_CHECK(shape.key_heads >= 1 && shape.value_heads % shape.key_heads == 0,
                 "{} value heads are not a multiple of {} key heads", shape.value_heads, shape.key_heads);
  for_each_operand(
      [&](const LinearOperandRule& rule, const Tensor& t) {
        if (t.defined()) check_shape(rule.name, t, rule.shape(shape), rule.dtype(shape));
      },
      x);
  SPANWISE_CHECK(!(x.log_decay.defined() && x.head_log_decay.defined()),
                 "the decay is given both per token and per head; give one");
}

/// Of a call's spans.
TransitionKind transition_of(const LinearFamily& family, const LinearStateCall& call) {
  const bool decays = call.log_decay.defined() || call.head_log_decay.defined();
  return family.transition == TransitionKind::kDense || decays ? family.transition
                                                               : TransitionKind::kIdentity;
}

Tensor empty_states(Context& ctx, const LinearStateCall& call) {
  return Tensor::empty(ctx, shape_of(call).states(), accumulation_dtype(call.q.dtype()));
}

/// Memory for the gradient of an operand; undefined where none is computed.
Tensor allocate_gradient(Context& ctx, OperandGradient rule, const Adjoint& x) {
  const bool wanted = rule == OperandGradient::kAlways ? x.defined()
                      : rule == OperandGradient::kNone ? false
                                                       : x.requires_grad();
  if (!wanted) return {};
  return rule == OperandGradient::kSummed ? Tensor::zeros(ctx, x.shape(), x.dtype())
                                          : Tensor::empty(ctx, x.shape(), x.dtype());
}

void check_exchanged(const char* name, const Tensor& t, const LinearStateCall& call) {
  SPANWISE_CHECK(t.defined() && t.contiguous(), "the exchange of spans gave no contiguous {}", name);
  check_shape(name, t, shape_of(call).states(), accumulation_dtype(call.q.dtype()));
}

SpanSummary make_summary(Context& ctx, const LinearFamily& family, const LinearStateCall& call) {
  const DType dtype = accumulation_dtype(call.q.dtype());
  const LinearStateShape s = shape_of(call);
  SpanSummary summary{.transition = {.kind = transition_of(family, call)}};
  auto& [kind, values] = summary.transition;
  const Shape shape = transition_shape(kind, {s.rows, s.value_heads}, s.key_dim);
  if (kind == TransitionKind::kDense) {
    values = Tensor::zeros(ctx, shape, dtype);
  } else if (kind != TransitionKind::kIdentity) {
    values = Tensor::empty(ctx, shape, dtype);
  }
  summary.state = empty_states(ctx, call);
  return summary;
}

/// One call's stages: kernels, or on a dry Context what they take.
class Stages {
 public:
  Stages(Context& ctx, const LinearFamily& family, const LinearStateCall& call)
      : ctx_(ctx), kernels_(family.kernels(ctx.device())), call_(call) {}

  std::vector<Tensor> allocate_saved() const { return kernels_.allocate_saved(ctx_, call_); }
  std::vector<Tensor> allocate_passed() const { return kernels_.allocate_passed(ctx_, call_); }

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
    const LinearStageInput input{.stage = LinearStage::kLocal, .saves = !f.saved.empty()};
    if (kernels_.local) return run(input, kernels_.local, f);
    run(input, kernels_.forward, SegmentSet::kStarting, f);
  }
  void fold(const LinearStateForward& f) const {
    const LinearStageInput input{.stage = LinearStage::kFold, .saves = !f.saved.empty()};
    if (kernels_.fold) return run(input, kernels_.fold, f);
    run(input, kernels_.forward, SegmentSet::kContinuing, f);
  }
  void dstate(const LinearStateCotangents& from, const Tensor& dstate_in) const {
    run({.stage = LinearStage::kDstate}, kernels_.dstate, from, dstate_in);
  }
  void local_bwd(const LinearStateCotangents& from, const LinearStateGradients& g) const {
    const LinearStageInput input = backward_input(LinearStage::kLocalBwd, from, g);
    if (kernels_.local_bwd) return run(input, kernels_.local_bwd, from, g);
    run(input, kernels_.backward, SegmentSet::kInsideRow, from, g);
  }
  void fold_bwd(const LinearStateCotangents& from, const LinearStateGradients& g) const {
    const LinearStageInput input = backward_input(LinearStage::kFoldBwd, from, g);
    if (kernels_.fold_bwd) return run(input, kernels_.fold_bwd, from, g);
    run(input, kernels_.backward, SegmentSet::kEndingRow, from, g);
  }

 private:
  static LinearStageInput backward_input(LinearStage stage, const LinearStateCotangents& from,
                                         const LinearStateGradients& g) {
    return {.stage = stage, .dlog_decay = g.log_decay.defined(), .dfinal_state = from.dfinal_state.defined()};
  }
  template <class Kernel, class... Arguments>
  void run(const LinearStageInput& input, Kernel* kernel, const Arguments&... arguments) const {
    if (ctx_.dry()) return kernels_.temporaries(ctx_, call_, input);
    kernel(ctx_, call_, arguments...);
  }

  Context& ctx_;
  LinearStateKernels kernels_;
  const LinearStateCall& call_;
};

/// Of all operands, or of all gradients.
double operand_bytes(const LinearOperands<Tensor>& x) {
  double bytes = 0;
  for_each_operand([&](const LinearOperandRule&, const Tensor& t) { bytes += bytes_of(t); }, x);
  return bytes;
}

void count_forward(Context& ctx, const LinearFamily& family, const LinearStateCall& call,
                   const LinearStateForward& f, bool summarized) {
  const LinearStateFlops flops = family.flops(shape_of(call), call.chunks);
  double bytes = operand_bytes(call) + bytes_of(f.out, f.final_state);
  for (const Tensor& t : f.saved) bytes += bytes_of(t);
  ctx.count({.flops = flops.forward, .recomputed_flops = summarized ? flops.summary : 0, .bytes = bytes});
}

void count_backward(Context& ctx, const LinearFamily& family, const LinearStateCall& call,
                    const LinearStateCotangents& from, const LinearStateGradients& g, bool exchanged) {
  const LinearStateFlops flops = family.flops(shape_of(call), call.chunks);
  double bytes = operand_bytes(call) + operand_bytes(g) + bytes_of(from.dout, from.dfinal_state);
  for (const Tensor& t : from.saved) bytes += bytes_of(t);
  ctx.count({.flops = 2 * flops.forward, .recomputed_flops = exchanged ? flops.dstate : 0, .bytes = bytes});
}

LinearStateForward allocate_forward(Context& ctx, const LinearFamily& family, const LinearStateCall& call,
                                    bool save) {
  LinearStateForward f;
  f.out = Tensor::empty(ctx, call.v.shape(), call.q.dtype());
  f.final_state = empty_states(ctx, call);
  if (save) f.saved = Stages(ctx, family, call).allocate_saved();
  return f;
}

// Forward of rows that are spans. Sets call.initial_state; returns what backward needs of the other spans.
std::shared_ptr<const void> forward_spans(Tape& tape, const LinearFamily& family, SpanExchange& exchange,
                                          LinearStateCall& call, LinearStateForward& f) {
  Context& ctx = tape.context();
  std::unique_ptr<SpanExchange::Forward> started;
  const Stages stages(ctx, family, call);
  if (tape.replays()) {
    if (f.saved.empty()) f.saved = stages.allocate_passed();
    stages.summarize(nullptr, f);
  } else {
    const SpanSummary summary = make_summary(ctx, family, call);
    if (f.saved.empty()) f.saved = stages.allocate_passed();
    stages.summarize(&summary, f);
    started = exchange.start_forward(summary);
  }
  stages.local(f);
  IncomingState incoming = tape.once([&] { return started->wait(); });
  check_exchanged("incoming state", incoming.state, call);
  call.initial_state = std::move(incoming.state);
  stages.fold(f);
  count_forward(ctx, family, call, f, !tape.replays());
  return std::move(incoming.saved);
}

/// What backward reads of a call, and how to compute again what forward saved.
class SavedCall {
 public:
  SavedCall(const LinearFamily& family, const LinearOperands<Var>& x, LinearStateCall call, bool spans)
      : family_(family),
        operands_(map_operands<Saved>(x, [](const Var& v) { return v.saved(); })),
        initial_state_(std::move(call.initial_state)),
        chunks_(std::move(call.chunks)),
        scale_(call.scale),
        spans_(spans) {
    operands_.initial_state = {};  // a copy where it was not contiguous; of spans what came in
  }

  LinearStateCall get() const {
    LinearStateCall call{map_operands<Tensor>(operands_, [](const Saved& s) { return s.get(); }), chunks_,
                         scale_};
    call.initial_state = initial_state_;
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
    LinearStateForward f = allocate_forward(ctx, family_, call, /*save=*/true);
    const Stages stages(ctx, family_, call);
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
    count_forward(ctx, family_, call, f, /*summarized=*/false);
    keep(std::move(f.saved));
    return f.out;
  }

 private:
  const LinearFamily& family_;
  LinearOperands<Saved> operands_;
  Tensor initial_state_;
  ChunkList chunks_;
  double scale_;
  bool spans_;
  std::optional<std::vector<Tensor>> saved_;
};

void backward_spans(Context& ctx, const LinearFamily& family, SpanExchange& exchange,
                    const std::shared_ptr<const void>& saved, const LinearStateCall& call,
                    LinearStateCotangents from, const LinearStateGradients& g) {
  SPANWISE_CHECK(
      !from.dfinal_state.defined(),
      "the last state of a span has a gradient of its own; with an exchange only the next span may "
      "use that state");
  const Tensor dstate_in = Tensor::zeros(ctx, shape_of(call).states(), accumulation_dtype(call.q.dtype()));
  const Stages stages(ctx, family, call);
  stages.dstate(from, dstate_in);
  const std::unique_ptr<SpanExchange::Backward> started = exchange.start_backward(dstate_in, saved);
  stages.local_bwd(from, g);
  from.dfinal_state = started->wait();
  check_exchanged("gradient of the last state", from.dfinal_state, call);
  stages.fold_bwd(from, g);
}

}  // namespace

LinearStateResult linear_state(Tape& tape, const LinearFamily& family, const LinearOperands<Var>& x,
                               const SequenceLayout& layout, const LinearStateOptions& options) {
  Context& ctx = tape.context();
  LinearStateCall call{map_operands<Tensor>(x, [](const Var& v) { return v.saved().get(); }),
                       ChunkList(layout, options.chunk), options.scale};
  check_operands(family, call, layout.batch(), layout.length());
  SpanExchange* exchange = options.exchange;
  SPANWISE_CHECK(!exchange || !call.initial_state.defined(),
                 "a span's initial_state comes from the exchange; give one of the two");
  if (call.initial_state.defined()) call.initial_state = call.initial_state.to_contiguous(ctx);

  std::vector<Var> inputs;  // q the first
  for_each_operand(
      [&](const LinearOperandRule& rule, const Var& v) {
        SPANWISE_CHECK(rule.gradient != OperandGradient::kNone || !v.requires_grad(), "{} has no gradient",
                       rule.name);
        inputs.push_back(v);
      },
      x);
  const bool save = tape.saving() &&
                    std::any_of(inputs.begin(), inputs.end(), [](const Var& v) { return v.requires_grad(); });
  LinearStateForward f = allocate_forward(ctx, family, call, save);
  std::shared_ptr<const void> saved;
  if (exchange) {
    saved = forward_spans(tape, family, *exchange, call, f);
  } else {
    Stages(ctx, family, call).forward(f);
    count_forward(ctx, family, call, f, /*summarized=*/false);
  }

  LinearStateResult result;
  result.out = tape.output(f.out, inputs);
  result.final_state = tape.output(f.final_state, {inputs.begin() + 1, inputs.end()});
  if (!save) return result;
  const auto held = std::make_shared<SavedCall>(family, x, std::move(call), exchange != nullptr);
  if (options.recompute) tape.recompute_by(result.out, [&ctx, held] { return held->forward_again(ctx); });
  if (!result.out.saved().recomputable()) held->keep(std::move(f.saved));
  tape.record(inputs, {result.out, result.final_state},
              [&ctx, &family, held, exchange, saved,
               x = map_operands<Adjoint>(x, [](const Var& v) { return v.adjoint(); }),
               out = result.out.adjoint(), final_state = result.final_state.adjoint()] {
                LinearStateCotangents from{held->saved(ctx), out.grad_or_zeros(ctx), final_state.grad()};
                const LinearStateCall call = held->get();
                LinearStateGradients d;
                for_each_operand(
                    [&](const LinearOperandRule& rule, const Adjoint& operand, Tensor& gradient) {
                      gradient = allocate_gradient(ctx, rule.gradient, operand);
                    },
                    x, d);
                if (from.dfinal_state.defined()) from.dfinal_state = from.dfinal_state.to_contiguous(ctx);
                if (exchange) {
                  backward_spans(ctx, family, *exchange, saved, call, from, d);
                } else {
                  Stages(ctx, family, call).backward(from, d);
                }
                count_backward(ctx, family, call, from, d, exchange != nullptr);
                for_each_operand([&](const LinearOperandRule&, const Adjoint& operand,
                                     const Tensor& gradient) { operand.add_grad(ctx, gradient); },
                                 x, d);
              });
  return result;
}

Tensor linear_state_step(Context& ctx, const LinearFamily& family, const LinearOperands<Tensor>& x,
                         double scale) {
  check_operands(family, x, x.q.dim(0), 1);
  SPANWISE_CHECK(x.initial_state.defined() && x.initial_state.contiguous(),
                 "a step needs a contiguous state");
  const Tensor out = Tensor::empty(ctx, x.v.shape(), x.q.dtype());
  ctx.count({.flops = family.step_flops * double(x.initial_state.numel()),
             .bytes = operand_bytes(x) + bytes_of(out, x.initial_state)});
  if (!ctx.dry()) {
    family.kernels(ctx.device()).step(ctx, x, scale, out);
  } else if (ctx.device() == Device::kCPU) {
    Tensor::empty(ctx, out.shape(), out.dtype());  // what is written to the state
  }
  return out;
}

}  // namespace spanwise
