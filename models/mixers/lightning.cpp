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

Lightning::Lightning(const LightningOptions& o, const SharedOptions& shared, const LayerPlace& place)
    : norm_eps_(shared.norm_eps),
      family_(family_options(shared, o.kName, 1.0, o.chunk)),
      log_decays_(log_decays(o.heads.num_value_heads, place.layer, place.num_layers)),
      heads_(split_over_ranks(shared.tensor, o.heads, o.kName)),
      qkv_(shared, heads_, {.activation = Activation::kSiLU}) {
  const SplitDim values = heads_.value_channels();
  if (o.output_gate) g_proj_ = Linear(shared.hidden, values, shared.linear);
  o_proj_ = Linear(values, shared.hidden, shared.linear);
  norm_ = NormWeight(values);
  norm_part_ = dim_part(shared.tensor, values, "norm over heads");
}

Var Lightning::forward(Tape& tape, const Var& x, const LayerContext& context) const {
  LinearOperands<Var> operands = qkv_(tape, x, context);
  operands.head_log_decay = per_head_decay(tape.context(), x.value().dtype(), log_decays_, heads_.values);
  const Var y = merge_heads(tape, run_family(tape, kScalarDecay, operands, context, family_));
  if (!g_proj_.exists()) return o_proj_(tape, rms_norm(tape, y, norm_.var(), norm_eps_, norm_part_));
  return o_proj_(tape, gated_rms_norm(tape, y, g_proj_(tape, x), norm_.var(), norm_eps_,
                                      {.gate_activation = Activation::kSigmoid, .part = norm_part_}));
}

void Lightning::visit(const std::string& prefix, const ParamVisitor& visitor) {
  qkv_.visit(prefix, visitor);
  g_proj_.visit(prefix + "g_proj.", visitor);
  norm_.visit(prefix + "norm.", visitor);
  o_proj_.visit(prefix + "o_proj.", visitor);
}

}  // namespace spanwise
