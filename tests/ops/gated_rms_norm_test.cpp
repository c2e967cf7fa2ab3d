#include "core/ops/gated_rms_norm.h"

#include <cmath>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

const GatedNormOptions kAllOptions[] = {
    {Activation::kSiLU, GateOrder::kNormThenGate},
    {Activation::kSiLU, GateOrder::kGateThenNorm},
    {Activation::kSigmoid, GateOrder::kNormThenGate},
    {Activation::kSigmoid, GateOrder::kGateThenNorm},
};

// Operands: x, gate, weight.
OpFunction norm_op(GatedNormOptions options) {
  return [options](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{gated_rms_norm(tape, v[0], v[1], v[2], 1e-5, options)};
  };
}

Tensor plain_norm(const Tensor& x, const Tensor& gate, const Tensor& weight, GatedNormOptions options) {
  const int64_t width = x.dim(-1);
  const auto values = to_doubles(x), gates = to_doubles(gate), w = to_doubles(weight);
  Tensor y = Tensor::empty(test_context(), x.shape(), DType::kF64);
  for (int64_t r = 0; r < x.numel() / width; ++r) {
    std::vector<double> f(size_t(width), 0.0), u(size_t(width), 0.0);
    double square = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double z = gates[r * width + i], sigmoid = 1 / (1 + std::exp(-z));
      f[i] = options.gate_activation == Activation::kSiLU ? z * sigmoid : sigmoid;
      u[i] = values[r * width + i] * (options.order == GateOrder::kGateThenNorm ? f[i] : 1.0);
      square += u[i] * u[i];
    }
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = r * width + i;
      const double normed = u[i] / std::sqrt(square / double(width) + 1e-5) * w[at % w.size()];
      y.data<double>()[at] = options.order == GateOrder::kNormThenGate ? normed * f[i] : normed;
    }
  }
  return y;
}

TEST(GatedRmsNorm, EqualsTheFormula) {
  const Tensor x = random_tensor({2, 35, 3, 24}, DType::kF64, "x", 2.0),
               gate = random_tensor({2, 35, 3, 24}, DType::kF64, "gate", 2.0),
               w = random_tensor({24}, DType::kF64, "w");
  for (const GatedNormOptions& options : kAllOptions) {
    EXPECT_TRUE(near(evaluate(norm_op(options), {x, gate, w})[0], plain_norm(x, gate, w, options),
                     kTolerance64.value));
  }
}

TEST(GatedRmsNorm, GradientsEqualFiniteDifferences) {
  const Tensor x = random_tensor({70, 11}, DType::kF64, "x"),
               gate = random_tensor({70, 11}, DType::kF64, "gate", 2.0),
               w = random_tensor({11}, DType::kF64, "w");
  for (const GatedNormOptions& options : kAllOptions) {
    check_gradients(norm_op(options), {x, gate, w});
    check_gradients(norm_op(options), {x, gate, Tensor()});
    check_fp32(norm_op(options), {x, gate, w});
  }
}

TEST(GatedRmsNorm, WeightPerGroupCoversTwoTrailingDimensions) {
  const Tensor x = random_tensor({35, 4, 8}, DType::kF64, "x"),
               gate = random_tensor({35, 4, 8}, DType::kF64, "gate"),
               w = random_tensor({32}, DType::kF64, "w");
  for (const GatedNormOptions& options : kAllOptions) {
    EXPECT_TRUE(near(evaluate(norm_op(options), {x, gate, w})[0], plain_norm(x, gate, w, options),
                     kTolerance64.value));
    check_gradients(norm_op(options), {x, gate, w});
  }
}

TEST(GatedRmsNorm, ReadsColumnBlocks) {
  const Tensor wide = random_tensor({6, 60}, DType::kF64, "x"), w = random_tensor({8}, DType::kF64, "w");
  const Tensor x = wide.column_range(8, 24).reshape({6, 2, 8}),
               gate = wide.column_range(30, 46).reshape({6, 2, 8});
  const Tensor x_copy = x.to_contiguous(test_context()), gate_copy = gate.to_contiguous(test_context());
  const OpFunction op = norm_op({});
  EXPECT_TRUE(bitwise_equal(evaluate(op, {x, gate, w})[0], evaluate(op, {x_copy, gate_copy, w})[0]));
  const auto grads = gradients(op, {x, gate, w}), grads_copy = gradients(op, {x_copy, gate_copy, w});
  for (size_t i = 0; i < grads.size(); ++i) EXPECT_TRUE(bitwise_equal(grads[i], grads_copy[i])) << i;
}

TEST(GatedRmsNorm, ExtremeGatesGiveNoNan) {
  const Tensor x = random_tensor({2, 6}, DType::kF32, "x"), w = random_tensor({6}, DType::kF32, "w");
  const Tensor gate = Tensor::from<float>(
      test_context(), {2, 6}, {-1e4f, 1e4f, -100, 100, 0, 1, -1e4f, -1e4f, -1e4f, -1e4f, -1e4f, -1e4f});
  for (const GatedNormOptions& options : kAllOptions) {
    for (double v : to_doubles(evaluate(norm_op(options), {x, gate, w})[0])) EXPECT_TRUE(std::isfinite(v));
    for (const Tensor& grad : gradients(norm_op(options), {x, gate, w})) {
      for (double v : to_doubles(grad)) EXPECT_TRUE(std::isfinite(v));
    }
  }
}

TEST(GatedRmsNorm, RefusesWhatItDoesNotSupport) {
  const Tensor x = random_tensor({4, 6}, DType::kF64, "x"), w = random_tensor({6}, DType::kF64, "w");
  EXPECT_THROW(evaluate(norm_op({.gate_activation = Activation::kReLU}), {x, x, w}), Error);
  EXPECT_THROW(evaluate(norm_op({}), {x, x, random_tensor({5}, DType::kF64, "w")}), Error);
  EXPECT_THROW(evaluate(norm_op({}), {x, random_tensor({4, 5}, DType::kF64, "g"), w}), Error);
}

}  // namespace
}  // namespace spanwise::testing
