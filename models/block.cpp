#include "models/block.h"

#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"

namespace spanwise {

Mlp::Mlp(const TensorGroup& tensor, int64_t hidden, const MlpOptions& options, double init_stddev)
    : recompute_(options.recompute ? Recompute::kYes : Recompute::kNo) {
  const SplitDim inner = divide_unevenly(tensor, options.intermediate, "model.intermediate_size");
  gate_proj_ = Linear(hidden, inner, init_stddev);
  up_proj_ = Linear(hidden, inner, init_stddev);
  down_proj_ = Linear(inner, hidden, init_stddev);
}

Var Mlp::operator()(Tape& tape, const Var& x) const {
  const Var gate = gate_proj_(tape, x, recompute_), up = up_proj_(tape, x, recompute_);
  return down_proj_(tape, swiglu(tape, gate, up));
}

void Mlp::visit(const std::string& prefix, const ParamVisitor& visitor) {
  gate_proj_.visit(prefix + "gate_proj.", visitor);
  up_proj_.visit(prefix + "up_proj.", visitor);
  down_proj_.visit(prefix + "down_proj.", visitor);
}

Block::Block(MixerKind kind, const MixerOptions& options, const MlpOptions& mlp, const TensorStream& stream)
    : tensor_stream_(stream),
      hidden_(options.hidden),
      norm_eps_(options.norm_eps),
      mixer_norm_(stream.parameter(options.hidden)),
      mlp_norm_(stream.parameter(options.hidden)),
      mixer_(make_mixer(kind, options)),
      mlp_(options.tensor, options.hidden, mlp, options.init_stddev) {}

Stream Block::forward(Tape& tape, const Stream& stream, const MixerContext& context) const {
  const Shape whole{context.layout.batch(), context.layout.length(), hidden_};
  const AddRmsNorm before = add_rms_norm(tape, stream.delta, stream.residual, mixer_norm_.var(), norm_eps_);
  const Var mixed = tensor_stream_.leave(
      tape, mixer_->forward(tape, tensor_stream_.enter(tape, before.normed, whole), context));
  const AddRmsNorm between = add_rms_norm(tape, mixed, before.sum, mlp_norm_.var(), norm_eps_);
  const Var expanded = mlp_(tape, tensor_stream_.enter(tape, between.normed, whole));
  return {tensor_stream_.leave(tape, expanded), between.sum};
}

void Block::visit(const std::string& prefix, const ParamVisitor& visitor) {
  mixer_norm_.visit(prefix + "attn_norm.", visitor);
  mixer_->visit(prefix + "attn.", visitor);
  mlp_norm_.visit(prefix + "mlp_norm.", visitor);
  mlp_.visit(prefix + "mlp.", visitor);
}

}  // namespace spanwise
