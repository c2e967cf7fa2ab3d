#include "models/mixers/linear_mixer.h"

#include "core/ops/gated_rms_norm.h"
#include "core/ops/l2_norm.h"
#include "core/ops/rms_norm.h"

namespace spanwise {

QkvProjection::QkvProjection(const SharedOptions& shared, const HeadSplit& split, const QkvOptions& options)
    : options_(options) {
  const SplitDim keys = split.key_channels(), values = split.value_channels();
  const SplitDim widths[3] = {keys, keys, values};
  num_heads_[0] = num_heads_[1] = split.keys.size();
  num_heads_[2] = split.values.size();
  for (int i = 0; i < 3; ++i) {
    proj_[i] = Linear(shared.hidden, widths[i], shared.linear);
    if (options.conv_size > 0)
      conv_[i] = ShortConv(widths[i], options.conv_size, shared.linear.init_stddev, Activation::kSiLU);
  }
}

Var QkvProjection::project(Tape& tape, const Var& x, int index, const LayerContext& context) const {
  const Var projected = proj_[index](tape, x);
  const int64_t num_heads = num_heads_[index];
  const bool normed = options_.norm == QkNorm::kL2 && index < 2;
  if (conv_[index].exists()) {
    if (context.state) context.state->conv.resize(3);
    Tensor* const state = context.state ? &context.state->conv[index] : nullptr;
    const L2Heads heads{.dim = normed ? projected.dim(-1) / num_heads : 0};
    return split_heads(tape, conv_[index](tape, projected, context, state, heads), num_heads);
  }
  const bool activated = options_.activation != Activation::kNone;
  const Var y =
      split_heads(tape, activated ? activation(tape, projected, options_.activation) : projected, num_heads);
  return normed ? l2_norm(tape, y) : y;
}

QkvProjection::Heads QkvProjection::operator()(Tape& tape, const Var& x, const LayerContext& context) const {
  return {project(tape, x, 0, context), project(tape, x, 1, context), project(tape, x, 2, context)};
}

void QkvProjection::visit(const std::string& prefix, const ParamVisitor& visitor) {
  const char* names[3] = {"q", "k", "v"};
  for (int i = 0; i < 3; ++i) proj_[i].visit(prefix + names[i] + "_proj.", visitor);
  for (int i = 0; i < 3; ++i) conv_[i].visit(prefix + names[i] + "_conv1d.", visitor);
}

GatedOutput::GatedOutput(const SharedOptions& shared, const HeadSplit& split,
                         const GatedOutputOptions& options)
    : norm_(share(shared.tensor, split.value_dim)),
      norm_name_(options.gate ? options.gated_norm_name : options.plain_norm_name),
      norm_eps_(shared.norm_eps) {
  if (options.gate) g_proj_ = Linear(shared.hidden, split.value_channels(), shared.linear);
  o_proj_ = Linear(split.value_channels(), shared.hidden, shared.linear);
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

LinearStateOptions family_options(const SharedOptions& shared, std::string_view mixer, double scale,
                                  int64_t chunk) {
  require_sizes(mixer, {{"chunk", chunk}});
  return {.scale = scale, .chunk = chunk, .recompute = shared.recompute_mixers};
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
                     const LayerContext& context, LinearStateOptions options) {
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
                    const LayerContext& context, LinearStateOptions options) {
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
