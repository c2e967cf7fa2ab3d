#include "models/mixers/gated_delta_net.h"

#include <cmath>

#include "core/ops/gates.h"

namespace spanwise {

GatedDeltaNet::GatedDeltaNet(const MixerOptions& options, Decay decay)
    : options_(options),
      decay_(decay),
      qkv_(options, Activation::kSiLU, QkvConv::kAsConfigured, QkNorm::kL2),
      out_(options, "o_norm.", "o_norm.") {
  const SplitDim value_heads = split_over_ranks(options).values;
  b_proj_ = Linear(options.hidden, value_heads, options.init_stddev);
  if (decay == Decay::kNone) return;
  a_proj_ = Linear(options.hidden, value_heads, options.init_stddev);
  A_log_ = split_param({0}, 0, value_heads, init::log_uniform_range(0, 16), false);
  dt_bias_ = split_param({0}, 0, value_heads, init::dt_bias(), false);
}

Var GatedDeltaNet::forward(Tape& tape, const Var& x, const MixerContext& context) const {
  const LinearMixerOptions& o = options_.linear;
  const QkvProjection::Heads heads = qkv_(tape, x, context);
  const Var beta = scaled_sigmoid(tape, b_proj_(tape, x), o.allow_neg_eigval ? 2.0 : 1.0);
  const Var log_decay = decay_ == Decay::kNone ? Var() : decay_gate(tape, a_proj_(tape, x), A_log_, dt_bias_);
  const Var y = run_gated_delta(
      tape, heads, log_decay, beta, context,
      {.scale = 1.0 / std::sqrt(double(o.key_dim)), .chunk = o.chunk, .recompute = options_.recompute});
  return out_(tape, y, x);
}

void GatedDeltaNet::visit(const std::string& prefix, const ParamVisitor& visitor) {
  qkv_.visit(prefix, visitor);
  a_proj_.visit(prefix + "a_proj.", visitor);
  b_proj_.visit(prefix + "b_proj.", visitor);
  if (decay_ == Decay::kScalarGate) {
    visitor(prefix + "A_log", A_log_);
    visitor(prefix + "dt_bias", dt_bias_);
  }
  out_.visit(prefix, visitor);
}

}  // namespace spanwise
