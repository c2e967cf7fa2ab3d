#include "models/mixers/heads.h"

#include "core/ops/gated_rms_norm.h"
#include "core/ops/l2_norm.h"
#include "core/ops/rms_norm.h"
#include "core/ops/views.h"

namespace spanwise {

size_t MixerState::bytes() const {
  size_t total = 0;
  for (const Tensor& t : {recurrent, keys, values}) total += t.defined() ? t.bytes() : 0;
  for (const Tensor& t : conv) total += t.defined() ? t.bytes() : 0;
  return total;
}

Var split_heads(Tape& tape, const Var& x, int64_t num_heads) {
  return reshape(tape, x, {x.dim(0), x.dim(1), num_heads, x.dim(-1) / num_heads});
}

Var merge_heads(Tape& tape, const Var& x) {
  return reshape(tape, x, {x.dim(0), x.dim(1), x.dim(2) * x.dim(3)});
}

HeadSplit split_over_ranks(const MixerOptions& options) {
  const LinearMixerOptions& o = options.linear;
  return {divide_or_share(options.tensor, o.num_heads, "model.linear.num_heads"),
          divide(options.tensor, o.num_value_heads, "model.linear.num_value_heads")};
}

QkvProjection::QkvProjection(const MixerOptions& options, Activation activation, QkvConv conv, QkNorm norm)
    : activation_(activation), norm_(norm) {
  const LinearMixerOptions& o = options.linear;
  const HeadSplit heads = split_over_ranks(options);
  num_heads_[0] = num_heads_[1] = heads.keys.size();
  num_heads_[2] = heads.values.size();
  const SplitDim keys = heads.keys.times(o.key_dim), values = heads.values.times(o.value_dim);
  const SplitDim widths[3] = {keys, keys, values};
  for (int i = 0; i < 3; ++i) {
    proj_[i] = Linear(options.hidden, widths[i], options.init_stddev);
    if (conv == QkvConv::kAsConfigured && o.short_conv) {
      conv_[i] = ShortConv(widths[i], o.conv_size, options.init_stddev, Activation::kSiLU);
    }
  }
}

Var QkvProjection::project(Tape& tape, const Var& x, int index, const MixerContext& context) const {
  const Var projected = proj_[index](tape, x);
  const int64_t num_heads = num_heads_[index];
  const bool normed = norm_ == QkNorm::kL2 && index < 2;
  if (conv_[index].exists()) {
    if (context.state) context.state->conv.resize(3);
    Tensor* const state = context.state ? &context.state->conv[index] : nullptr;
    const L2Heads heads{.dim = normed ? projected.dim(-1) / num_heads : 0};
    return split_heads(tape, conv_[index](tape, projected, context, state, heads), num_heads);
  }
  const Var y = split_heads(
      tape, activation_ == Activation::kNone ? projected : activation(tape, projected, activation_),
      num_heads);
  return normed ? l2_norm(tape, y) : y;
}

QkvProjection::Heads QkvProjection::operator()(Tape& tape, const Var& x, const MixerContext& context) const {
  return {project(tape, x, 0, context), project(tape, x, 1, context), project(tape, x, 2, context)};
}

void QkvProjection::visit(const std::string& prefix, const ParamVisitor& visitor) {
  const char* names[3] = {"q", "k", "v"};
  for (int i = 0; i < 3; ++i) proj_[i].visit(prefix + names[i] + "_proj.", visitor);
  for (int i = 0; i < 3; ++i) conv_[i].visit(prefix + names[i] + "_conv1d.", visitor);
}

GatedOutput::GatedOutput(const MixerOptions& options, std::string gated_norm_name,
                         const std::string& plain_norm_name)
    : norm_(share(options.tensor, options.linear.value_dim)),
      norm_name_(options.linear.output_gate ? std::move(gated_norm_name) : plain_norm_name),
      norm_eps_(options.norm_eps) {
  const SplitDim values = split_over_ranks(options).values.times(options.linear.value_dim);
  if (options.linear.output_gate) g_proj_ = Linear(options.hidden, values, options.init_stddev);
  o_proj_ = Linear(values, options.hidden, options.init_stddev);
}

Var GatedOutput::operator()(Tape& tape, const Var& y, const Var& x) const {
  if (!g_proj_.exists()) return o_proj_(tape, merge_heads(tape, rms_norm(tape, y, norm_.var(), norm_eps_)));
  const Var gate = split_heads(tape, g_proj_(tape, x), y.dim(2));
  return o_proj_(tape, merge_heads(tape, gated_rms_norm(tape, y, gate, norm_.var(), norm_eps_)));
}

void GatedOutput::visit(const std::string& prefix, const ParamVisitor& visitor) {
  g_proj_.visit(prefix + "g_proj.", visitor);
  norm_.visit(prefix + norm_name_, visitor);
  o_proj_.visit(prefix + "o_proj.", visitor);
}

namespace {

// Runs a family over heads.v's tokens: its step for one token of a sequence being generated, else its chunked
// form.
template <class Chunked, class Step>
Var run_family(Tape& tape, const QkvProjection::Heads& heads, MixerState* state, LinearStateStep operands,
               Chunked chunked, Step step) {
  Context& ctx = tape.context();
  const int64_t batch = heads.v.dim(0), length = heads.v.dim(1), value_heads = heads.v.dim(2);
  if (!state || length > 1) {
    const LinearStateResult result =
        chunked(state && state->recurrent.defined() ? Var(state->recurrent) : Var());
    if (state) state->recurrent = result.final_state.value();
    return result.out;
  }
  const int64_t K = heads.k.dim(3), V = heads.v.dim(3);
  if (!state->recurrent.defined()) {
    state->recurrent =
        Tensor::zeros(ctx, {batch, value_heads, K, V}, accumulation_dtype(heads.v.value().dtype()));
  }
  const auto without_time = [](const Var& x) { return x.value().reshape({x.dim(0), x.dim(2), x.dim(3)}); };
  operands.q = without_time(heads.q);
  operands.k = without_time(heads.k);
  operands.v = without_time(heads.v);
  operands.state = state->recurrent;
  return Var(step(ctx, operands).reshape({batch, 1, value_heads, V}));
}

// [B, 1, HV] → [B, HV]; undefined stays undefined.
Tensor token_gate(const Var& gate, const MixerState* state) {
  if (!state || !gate.defined() || gate.dim(1) != 1) return {};
  return gate.value().reshape({gate.dim(0), gate.dim(2)});
}

}  // namespace

Var run_scalar_decay(Tape& tape, const QkvProjection::Heads& heads, const Decay& decay,
                     const MixerContext& context, LinearStateOptions options) {
  options.exchange = context.exchange();
  const auto chunked = [&](const Var& initial) {
    return scalar_decay(tape, heads.q, heads.k, heads.v, decay, context.layout, initial, options);
  };
  LinearStateStep operands{.log_decay = token_gate(decay.per_token, context.state),
                           .head_log_decay = decay.per_head,
                           .scale = options.scale};
  return run_family(tape, heads, context.state, operands, chunked, scalar_decay_step);
}

Var run_gated_delta(Tape& tape, const QkvProjection::Heads& heads, const Var& log_decay, const Var& beta,
                    const MixerContext& context, LinearStateOptions options) {
  options.exchange = context.exchange();
  const auto chunked = [&](const Var& initial) {
    return gated_delta(tape, heads.q, heads.k, heads.v, log_decay, beta, context.layout, initial, options);
  };
  LinearStateStep operands{.log_decay = token_gate(log_decay, context.state),
                           .beta = token_gate(beta, context.state),
                           .scale = options.scale};
  return run_family(tape, heads, context.state, operands, chunked, gated_delta_step);
}

Tensor per_head_tensor(Context& ctx, DType activations, const std::vector<double>& all,
                       const SplitDim& heads) {
  const auto first = all.begin() + heads.ranges.front().begin;
  return dispatch_float(accumulation_dtype(activations), [&](auto zero) {
    using T = decltype(zero);
    return Tensor::from(ctx, {heads.size()}, std::vector<T>(first, first + heads.size()));
  });
}

}  // namespace spanwise
