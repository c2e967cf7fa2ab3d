#include "models/block.h"

#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"

namespace spanwise {

Mlp::Mlp(int64_t hidden, int64_t intermediate, double init_stddev)
    : gate_proj_(hidden, intermediate, init_stddev),
      up_proj_(hidden, intermediate, init_stddev),
      down_proj_(intermediate, hidden, init_stddev) {}

Var Mlp::operator()(Tape& tape, const Var& x) const {
  return down_proj_(tape, swiglu(tape, gate_proj_(tape, x), up_proj_(tape, x)));
}

void Mlp::visit(const std::string& prefix, const ParamVisitor& visitor) {
  gate_proj_.visit(prefix + "gate_proj.", visitor);
  up_proj_.visit(prefix + "up_proj.", visitor);
  down_proj_.visit(prefix + "down_proj.", visitor);
}

Block::Block(MixerKind kind, const MixerOptions& options, int64_t intermediate)
    : norm_eps_(options.norm_eps),
      mixer_norm_(options.hidden),
      mlp_norm_(options.hidden),
      mixer_(make_mixer(kind, options)),
      mlp_(options.hidden, intermediate, options.init_stddev) {}

Stream Block::forward(Tape& tape, const Stream& stream, const MixerContext& context) const {
  const AddRmsNorm before = add_rms_norm(tape, stream.delta, stream.residual, mixer_norm_.var(), norm_eps_);
  const Var mixed = mixer_->forward(tape, before.normed, context);
  const AddRmsNorm between = add_rms_norm(tape, mixed, before.sum, mlp_norm_.var(), norm_eps_);
  return {mlp_(tape, between.normed), between.sum};
}

void Block::visit(const std::string& prefix, const ParamVisitor& visitor) {
  mixer_norm_.visit(prefix + "attn_norm.", visitor);
  mixer_->visit(prefix + "attn.", visitor);
  mlp_norm_.visit(prefix + "mlp_norm.", visitor);
  mlp_.visit(prefix + "mlp.", visitor);
}

}  // namespace spanwise
