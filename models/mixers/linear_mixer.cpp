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

LinearOperands<Var> QkvProjection::operator()(Tape& tape, const Var& x, const LayerContext& context) const {
  return {.q = project(tape, x, 0, context),
          .k = project(tape, x, 1, context),
          .v = project(tape, x, 2, context)};
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

Var run_family(Tape& tape, const LinearFamily& family, LinearOperands<Var> operands,
               const LayerContext& context, LinearStateOptions options) {
  MixerState* const state = context.state;
  if (!state || operands.v.dim(1) > 1) {
    options.exchange = context.exchange();
    if (state && state->recurrent.defined()) operands.initial_state = Var(state->recurrent);
    const LinearStateResult result = linear_state(tape, family, operands, context.layout, options);
    if (state) state->recurrent = result.final_state.value();
    return result.out;
  }
  LinearOperands<Tensor> token = map_operands<Tensor>(operands, [](const Var& x) { return x.saved().get(); });
  if (!state->recurrent.defined())
    state->recurrent =
        Tensor::zeros(tape.context(), {token.v.dim(0), token.v.dim(2), token.k.dim(3), token.v.dim(3)},
                      accumulation_dtype(token.v.dtype()));
  token.initial_state = state->recurrent;
  return Var(linear_state_step(tape.context(), family, token, options.scale));
}

Var per_head_decay(Context& ctx, DType activations, const std::vector<double>& all, const SplitDim& heads) {
  const auto first = all.begin() + heads.ranges.front().begin;
  return dispatch_float(accumulation_dtype(activations), [&](auto zero) {
    using T = decltype(zero);
    return Var(Tensor::from(ctx, {heads.size()}, std::vector<T>(first, first + heads.size())));
  });
}

}  // namespace spanwise
