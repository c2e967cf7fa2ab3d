#include "models/mixers/lightning.h"

#include <cmath>

#include "core/ops/gated_rms_norm.h"
#include "core/ops/rms_norm.h"

namespace spanwise {

std::vector<double> Lightning::log_decays(int64_t num_heads, int64_t layer, int64_t num_layers) {
  const double depth = 1.0 - double(layer) / (double(num_layers - 1) + 1e-5) + 1e-5;
  std::vector<double> g;
  for (int64_t h = 0; h < num_heads; ++h)
    g.push_back(-std::exp2(-8.0 * double(h + 1) / double(num_heads)) * depth);
  return g;
}

Lightning::Lightning(const MixerOptions& options)
    : options_(options),
      heads_(split_over_ranks(options).values),
      qkv_(options, Activation::kSiLU, QkvConv::kNone) {
  const LinearMixerOptions& o = options_.linear;
  const SplitDim values = heads_.times(o.value_dim);
  if (o.output_gate) g_proj_ = Linear(options.hidden, values, options.init_stddev);
  o_proj_ = Linear(values, options.hidden, options.init_stddev);
  norm_ = NormWeight(values);
  norm_part_ = dim_part(options.tensor, values, "norm over heads");
}

Var Lightning::forward(Tape& tape, const Var& x, const MixerContext& context) const {
  const LinearMixerOptions& o = options_.linear;
  const QkvProjection::Heads heads = qkv_(tape, x, context);
  const Tensor decay =
      per_head_tensor(tape.context(), x.value().dtype(),
                      log_decays(o.num_value_heads, options_.layer, options_.num_layers), heads_);
  const Var y =
      merge_heads(tape, run_scalar_decay(tape, heads, {.per_head = decay}, context,
                                         {.scale = 1.0, .chunk = o.chunk, .recompute = options_.recompute}));
  if (!o.output_gate) return o_proj_(tape, rms_norm(tape, y, norm_.var(), options_.norm_eps, norm_part_));
  return o_proj_(tape, gated_rms_norm(tape, y, g_proj_(tape, x), norm_.var(), options_.norm_eps,
                                      {.gate_activation = Activation::kSigmoid, .part = norm_part_}));
}

void Lightning::visit(const std::string& prefix, const ParamVisitor& visitor) {
  qkv_.visit(prefix, visitor);
  g_proj_.visit(prefix + "g_proj.", visitor);
  norm_.visit(prefix + "norm.", visitor);
  o_proj_.visit(prefix + "o_proj.", visitor);
}

}  // namespace spanwise
