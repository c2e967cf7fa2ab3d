#include "models/mixers/mamba2.h"

#include "core/ops/gated_rms_norm.h"
#include "core/ops/gates.h"
#include "core/ops/views.h"

namespace spanwise {

Mamba2::Mamba2(const MixerOptions& options)
    : options_(options),
      inner_(options.linear.num_value_heads * options.linear.value_dim),
      group_(options.linear.num_heads * options.linear.key_dim) {
  const LinearMixerOptions& o = options.linear;
  in_proj_ = Linear(options.hidden, 2 * inner_ + 2 * group_ + o.num_value_heads, options.init_stddev);
  conv_ = ShortConv(inner_ + 2 * group_, o.conv_size, options.init_stddev, Activation::kSiLU,
                    o.conv_bias ? Linear::Bias::kYes : Linear::Bias::kNo);
  A_log_ = {{o.num_value_heads}, init::log_uniform_range(1, 16), false};
  D_ = {{o.num_value_heads}, init::constant(1), false};
  dt_bias_ = {{o.num_value_heads}, init::dt_bias(), false};
  norm_ = NormWeight(inner_);
  out_proj_ = Linear(inner_, options.hidden, options.init_stddev);
}

Var Mamba2::forward(Tape& tape, const Var& u, const MixerContext& context) const {
  const LinearMixerOptions& o = options_.linear;
  const std::vector<Var> zxbcdt =
      split_columns(tape, in_proj_(tape, u), {inner_, inner_ + 2 * group_, o.num_value_heads});
  if (context.state) context.state->conv.resize(1);
  const Var xbc = conv_(tape, zxbcdt[1], context, context.state ? &context.state->conv[0] : nullptr);
  const std::vector<Var> parts = split_columns(tape, xbc, {inner_, group_, group_});
  const Var x = split_heads(tape, parts[0], o.num_value_heads);
  const Mamba2Gates gates = mamba2_gates(tape, x, zxbcdt[2], A_log_, dt_bias_);
  const QkvProjection::Heads heads{split_heads(tape, parts[2], o.num_heads),
                                   split_heads(tape, parts[1], o.num_heads), gates.v};
  Var y = run_scalar_decay(tape, heads, {.per_token = gates.g}, context, {.scale = 1.0, .chunk = o.chunk});
  y = merge_heads(tape, head_skip(tape, y, x, D_));
  return out_proj_(tape, gated_rms_norm(tape, y, zxbcdt[0], norm_.var(), options_.norm_eps,
                                        {.order = GateOrder::kGateThenNorm}));
}

void Mamba2::visit(const std::string& prefix, const ParamVisitor& visitor) {
  in_proj_.visit(prefix + "in_proj.", visitor);
  conv_.visit(prefix + "conv1d.", visitor);
  visitor(prefix + "A_log", A_log_);
  visitor(prefix + "D", D_);
  visitor(prefix + "dt_bias", dt_bias_);
  norm_.visit(prefix + "norm.", visitor);
  out_proj_.visit(prefix + "out_proj.", visitor);
}

}  // namespace spanwise
