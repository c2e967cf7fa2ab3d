#include "models/layers.h"

#include "core/ops/linear.h"

namespace spanwise {

Linear::Linear(const SplitDim& in, const SplitDim& out, const LinearStyle& style, Bias bias) {
  SPANWISE_CHECK(!in.divided() || (!out.divided() && bias == Bias::kNo),
                 "a linear layer [{}, {}] whose input is divided needs a whole output and no bias", out.whole,
                 in.whole);
  const Init init = init::normal(style.init_stddev);
  weight_ =
      in.divided() ? split_param({out.whole, 0}, 1, in, init) : split_param({0, in.whole}, 0, out, init);
  if (bias == Bias::kYes) bias_ = split_param({0}, 0, out, init::constant(0), false);
}

Var Linear::operator()(Tape& tape, const Var& x, Recompute recompute) const {
  return linear(tape, x, weight_, bias_.var, recompute);
}

void Linear::visit(const std::string& prefix, const ParamVisitor& visitor) {
  if (!exists()) return;
  visitor(prefix + "weight", weight_);
  if (bias_.shape.num_dims() > 0) visitor(prefix + "bias", bias_);
}

NormWeight::NormWeight(const SplitDim& width) {
  weight_ = split_param({0}, 0, width, init::constant(1), false);
}

void NormWeight::visit(const std::string& prefix, const ParamVisitor& visitor) {
  if (exists()) visitor(prefix + "weight", weight_);
}

ShortConv::ShortConv(const SplitDim& channels, int64_t size, double init_stddev, Activation activation,
                     Linear::Bias bias)
    : activation_(activation) {
  weight_ = split_param({0, 1, size}, 0, channels, init::normal(init_stddev));
  if (bias == Linear::Bias::kYes) bias_ = split_param({0}, 0, channels, init::constant(0), false);
}

Var ShortConv::operator()(Tape& tape, const Var& x, const LayerContext& context, Tensor* state,
                          const L2Heads& heads) const {
  context.check();
  Var initial = state && state->defined() ? Var(*state) : Var();
  if (context.sequence) initial = context.sequence->halo(tape, x, weight_.var.dim(-1) - 1);
  const ShortConvResult result =
      short_conv(tape, x, weight_, bias_.var, context.layout, activation_, initial, heads);
  if (state) *state = result.final_state.value();
  return result.out;
}

void ShortConv::visit(const std::string& prefix, const ParamVisitor& visitor) {
  if (!exists()) return;
  visitor(prefix + "weight", weight_);
  if (bias_.shape.num_dims() > 0) visitor(prefix + "bias", bias_);
}

}  // namespace spanwise
