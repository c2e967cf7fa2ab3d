#include "models/mixers/retention.h"

#include <cmath>

#include "core/ops/rope.h"

namespace spanwise {

std::vector<double> Retention::log_decays(int64_t num_heads) {
  std::vector<double> g;
  for (int64_t h = 0; h < num_heads; ++h) g.push_back(std::log1p(-std::exp2(-5.0 - double(h))));
  return g;
}

Retention::Retention(const RetentionOptions& o, const SharedOptions& shared)
    : rope_theta_(o.rope_theta),
      family_(family_options(shared, o.kName, 1.0 / std::sqrt(double(o.heads.key_dim)), o.chunk)),
      log_decays_(log_decays(o.heads.num_value_heads)),
      heads_(split_over_ranks(shared.tensor, o.heads, o.kName)),
      qkv_(shared, heads_, {}),
      out_(shared, heads_,
           {.gate = o.output_gate, .gated_norm_name = "g_norm_swish_gate.", .plain_norm_name = "g_norm."}) {
  SPANWISE_CHECK(o.rope_theta > 0, "retention.rope_theta is {}, but positions need a base", o.rope_theta);
}

Var Retention::forward(Tape& tape, const Var& x, const LayerContext& context) const {
  LinearOperands<Var> operands = qkv_(tape, x, context);
  operands.q = rope(tape, operands.q, context.layout.positions(), rope_theta_, 0);
  operands.k = rope(tape, operands.k, context.layout.positions(), rope_theta_, 0);
  operands.head_log_decay = per_head_decay(tape.context(), x.value().dtype(), log_decays_, heads_.values);
  return out_(tape, run_family(tape, kScalarDecay, operands, context, family_), x);
}

void Retention::visit(const std::string& prefix, const ParamVisitor& visitor) {
  qkv_.visit(prefix, visitor);
  out_.visit(prefix, visitor);
}

}  // namespace spanwise
