#include "models/mixers/retention.h"

#include <cmath>

#include "core/ops/rope.h"

namespace spanwise {

std::vector<double> Retention::log_decays(int64_t num_heads) {
  std::vector<double> g;
  for (int64_t h = 0; h < num_heads; ++h) g.push_back(std::log1p(-std::exp2(-5.0 - double(h))));
  return g;
}

Retention::Retention(const MixerOptions& options)
    : options_(options),
      heads_(split_over_ranks(options).values),
      qkv_(options, Activation::kNone, QkvConv::kNone),
      out_(options, "g_norm_swish_gate.", "g_norm.") {}

Var Retention::forward(Tape& tape, const Var& x, const MixerContext& context) const {
  const LinearMixerOptions& o = options_.linear;
  QkvProjection::Heads heads = qkv_(tape, x, context);
  heads.q = rope(tape, heads.q, context.layout.positions(), o.rope_theta, 0);
  heads.k = rope(tape, heads.k, context.layout.positions(), o.rope_theta, 0);
  const Tensor decay =
      per_head_tensor(tape.context(), x.value().dtype(), log_decays(o.num_value_heads), heads_);
  const Var y = run_scalar_decay(
      tape, heads, {.per_head = decay}, context,
      {.scale = 1.0 / std::sqrt(double(o.key_dim)), .chunk = o.chunk, .recompute = options_.recompute});
  return out_(tape, y, x);
}

void Retention::visit(const std::string& prefix, const ParamVisitor& visitor) {
  qkv_.visit(prefix, visitor);
  out_.visit(prefix, visitor);
}

}  // namespace spanwise
