#include "models/block.h"

#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"

namespace spanwise {

Mlp::Mlp(const TensorGroup& tensor, int64_t hidden, int64_t intermediate, double init_stddev) {
  const SplitDim inner = divide_unevenly(tensor, intermediate, "model.intermediate_size");
  gate_proj_ = Linear(hidden, inner, init_stddev);
  up_proj_ = Linear(hidden, inner, init_stddev);
  down_proj_ = Linear(inner, hidden, init_stddev);
}

Var Mlp::operator()(Tape& tape, const Var& x) const {
  return down_proj_(tape, swiglu(tape, gate_proj_(tape, x), up_proj_(tape, x)));
}

void Mlp::visit(const std::string& prefix, const ParamVisitor& visitor) {
  gate_proj_.visit(prefix + "gate_proj.", visitor);
  up_proj_.visit(prefix + "up_proj.", visitor);
  down_proj_.visit(prefix + "down_proj.", visitor);
}

Block::Block(MixerKind kind, const MixerOptions& options, int64_t intermediate)
    : tensor_(options.tensor),
      norm_eps_(options.norm_eps),
      mixer_norm_(options.hidden),
      mlp_norm_(options.hidden),
      mixer_(make_mixer(kind, options)),
      mlp_(options.tensor, options.hidden, intermediate, options.init_stddev) {}

Stream Block::forward(Tape& tape, const Stream& stream, const MixerContext& context) const {
  const AddRmsNorm before = add_rms_norm(tape, stream.delta, stream.residual, mixer_norm_.var(), norm_eps_);
  const Var mixed =
      reduce_from(tape, tensor_, mixer_->forward(tape, copy_to(tape, tensor_, before.normed), context));
  const AddRmsNorm between = add_rms_norm(tape, mixed, before.sum, mlp_norm_.var(), norm_eps_);
  return {reduce_from(tape, tensor_, mlp_(tape, copy_to(tape, tensor_, between.normed))), between.sum};
}

void Block::visit(const std::string& prefix, const ParamVisitor& visitor) {
  mixer_norm_.visit(prefix + "attn_norm.", visitor);
  mixer_->visit(prefix + "attn.", visitor);
  mlp_norm_.visit(prefix + "mlp_norm.", visitor);
  mlp_.visit(prefix + "mlp.", visitor);
}

}  // namespace spanwise
