#include "models/mixers/gated_delta_net.h"

#include <cmath>

#include "core/ops/gates.h"

namespace spanwise {

GatedDeltaNet::GatedDeltaNet(const DeltaNetOptions& o, Decay decay, std::string_view name,
                             const SharedOptions& shared, const HeadSplit& split)
    : beta_scale_(o.allow_neg_eigval ? 2.0 : 1.0),
      family_(family_options(shared, name, 1.0 / std::sqrt(double(o.heads.key_dim)), o.chunk)),
      qkv_(shared, split, {.activation = Activation::kSiLU, .conv_size = o.conv_size, .norm = QkNorm::kL2}),
      b_proj_(shared.hidden, split.values, shared.linear),
      out_(shared, split,
           {.gate = o.output_gate, .gated_norm_name = "o_norm.", .plain_norm_name = "o_norm."}) {
  if (decay == Decay::kNone) return;
  a_proj_ = Linear(shared.hidden, split.values, shared.linear);
  A_log_ = split_param({0}, 0, split.values, init::log_uniform_range(0, 16), false);
  dt_bias_ = split_param({0}, 0, split.values, init::dt_bias(), false);
}

GatedDeltaNet::GatedDeltaNet(const DeltaNetOptions& o, const SharedOptions& shared)
    : GatedDeltaNet(o, Decay::kNone, o.kName, shared, split_over_ranks(shared.tensor, o.heads, o.kName)) {}

GatedDeltaNet::GatedDeltaNet(const GatedDeltaNetOptions& o, const SharedOptions& shared)
    : GatedDeltaNet({.heads = o.heads,
                     .conv_size = o.conv_size,
                     .allow_neg_eigval = o.allow_neg_eigval,
                     .output_gate = o.output_gate,
                     .chunk = o.chunk},
                    Decay::kScalarGate, o.kName, shared, split_over_ranks(shared.tensor, o.heads, o.kName)) {}

Var GatedDeltaNet::forward(Tape& tape, const Var& x, const LayerContext& context) const {
  LinearOperands<Var> operands = qkv_(tape, x, context);
  operands.beta = scaled_sigmoid(tape, b_proj_(tape, x), beta_scale_);
  if (a_proj_.exists()) operands.log_decay = decay_gate(tape, a_proj_(tape, x), A_log_, dt_bias_);
  return out_(tape, run_family(tape, kGatedDelta, operands, context, family_), x);
}

void GatedDeltaNet::visit(const std::string& prefix, const ParamVisitor& visitor) {
  qkv_.visit(prefix, visitor);
  a_proj_.visit(prefix + "a_proj.", visitor);
  b_proj_.visit(prefix + "b_proj.", visitor);
  if (a_proj_.exists()) {
    visitor(prefix + "A_log", A_log_);
    visitor(prefix + "dt_bias", dt_bias_);
  }
  out_.visit(prefix, visitor);
}

}  // namespace spanwise
