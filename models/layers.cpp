#include "models/layers.h"

#include "core/ops/linear.h"

namespace spanwise {

Linear::Linear(int64_t in, int64_t out, double init_stddev, Bias bias) {
  weight_ = {{out, in}, init::normal(init_stddev)};
  if (bias == Bias::kYes) bias_ = {{out}, init::constant(0), false};
}

Var Linear::operator()(Tape& tape, const Var& x) const {
  return linear(tape, x, weight_, bias_.var);
}

void Linear::visit(const std::string& prefix, const ParamVisitor& visitor) {
  if (!exists()) return;
  visitor(prefix + "weight", weight_);
  if (bias_.shape.num_dims() > 0) visitor(prefix + "bias", bias_);
}

NormWeight::NormWeight(int64_t width) {
  weight_ = {{width}, init::constant(1), false};
}

void NormWeight::visit(const std::string& prefix, const ParamVisitor& visitor) {
  if (exists()) visitor(prefix + "weight", weight_);
}

ShortConv::ShortConv(int64_t channels, int64_t size, double init_stddev, Activation activation,
                     Linear::Bias bias)
    : activation_(activation) {
  weight_ = {{channels, 1, size}, init::normal(init_stddev)};
  if (bias == Linear::Bias::kYes) bias_ = {{channels}, init::constant(0), false};
}

Var ShortConv::operator()(Tape& tape, const Var& x, const MixerContext& context, Tensor* state) const {
  const Var initial = state && state->defined() ? Var(*state) : Var();
  const ShortConvResult result =
      short_conv(tape, x, weight_, bias_.var, context.layout, activation_, initial);
  if (state) *state = result.final_state.value();
  return result.out;
}

void ShortConv::visit(const std::string& prefix, const ParamVisitor& visitor) {
  if (!exists()) return;
  visitor(prefix + "weight", weight_);
  if (bias_.shape.num_dims() > 0) visitor(prefix + "bias", bias_);
}

}  // namespace spanwise
