#include "core/ops/linear.h"

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

const OpFunction kLinear = [](Tape& tape, const std::vector<Var>& x) {
  return std::vector<Var>{linear(tape, x[0], x[1], x[2])};
};

Tensor plain_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t outputs = weight.dim(0), inputs = weight.dim(1), rows = x.numel() / inputs;
  const auto xs = to_doubles(x), w = to_doubles(weight);
  const auto b = bias.defined() ? to_doubles(bias) : std::vector<double>(size_t(outputs), 0.0);
  std::vector<int64_t> dims = x.shape().to_vector();
  dims.back() = outputs;
  Tensor y = Tensor::empty(test_context(), Shape(dims), DType::kF64);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = b[o];
      for (int64_t i = 0; i < inputs; ++i) sum += xs[r * inputs + i] * w[o * inputs + i];
      y.data<double>()[r * outputs + o] = sum;
    }
  }
  return y;
}

class Linear : public ::testing::Test {
 protected:
  const Tensor x = random_tensor({3, 7, 13}, DType::kF64, "x"), w = random_tensor({5, 13}, DType::kF64, "w"),
               b = random_tensor({5}, DType::kF64, "b");
};

TEST_F(Linear, EqualsTheFormula) {
  EXPECT_TRUE(near(evaluate(kLinear, {x, w, b})[0], plain_linear(x, w, b), kTolerance64.value));
  EXPECT_TRUE(near(evaluate(kLinear, {x, w, Tensor()})[0], plain_linear(x, w, Tensor()), kTolerance64.value));
}

TEST_F(Linear, OneRow) {
  const Tensor row = random_tensor({1, 1, 13}, DType::kF64, "x");
  EXPECT_TRUE(near(evaluate(kLinear, {row, w, b})[0], plain_linear(row, w, b), kTolerance64.value));
  check_gradients(kLinear, {row, w, b});
}

TEST_F(Linear, GradientsEqualFiniteDifferences) {
  check_gradients(kLinear, {x, w, b});
  check_gradients(kLinear, {x, w, Tensor()});
}

TEST_F(Linear, ReadsColumnBlocks) {
  const Tensor block = random_tensor({21, 30}, DType::kF64, "wide").column_range(4, 17).reshape({3, 7, 13});
  const Tensor copy = block.to_contiguous(test_context());
  EXPECT_TRUE(bitwise_equal(evaluate(kLinear, {block, w, b})[0], evaluate(kLinear, {copy, w, b})[0]));
  const auto of_block = gradients(kLinear, {block, w, b}), of_copy = gradients(kLinear, {copy, w, b});
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(bitwise_equal(of_block[i], of_copy[i])) << "operand " << i;
}

TEST_F(Linear, Fp32LiesWithinTheTable) {
  check_fp32(kLinear, {x, w, b});
}

TEST_F(Linear, AddsToAParametersBufferInPlace) {
  Context& ctx = test_context();
  const Tensor buffer = Tensor::empty(ctx, w.shape(), DType::kF64);
  buffer.fill(1.0);
  const Var weight = Var::make_parameter(w, buffer), input(x);
  Tape tape(ctx);
  const Var y = linear(tape, input, weight);
  const Tensor dy = random_tensor(y.shape(), DType::kF64, "dy");
  tape.backward({y}, {dy});

  const Tensor alone = Tensor::empty(ctx, w.shape(), DType::kF64);
  linear_bwd_weight(ctx, dy, x, {alone, false});
  for (int64_t i = 0; i < w.numel(); ++i)
    EXPECT_NEAR(buffer.data<double>()[i], alone.data<double>()[i] + 1.0, 1e-12);
}

TEST_F(Linear, OneInputOfTwoLayersGetsBothGradients) {
  const OpFunction both = [](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{linear(tape, v[0], v[1]), linear(tape, v[0], v[2])};
  };
  check_gradients(both, {x, w, random_tensor({4, 13}, DType::kF64, "second")});
}

TEST_F(Linear, ComputesOnlyTheGradientsThatAreRequired) {
  Tape tape(test_context());
  const Var input(x), weight(w, true);
  const Var y = linear(tape, input, weight);
  tape.backward({y}, {random_tensor(y.shape(), DType::kF64, "dy")});
  EXPECT_FALSE(input.grad().defined());
  EXPECT_TRUE(weight.grad().defined());
}

TEST_F(Linear, RefusesAWeightThatDoesNotFit) {
  EXPECT_THROW(evaluate(kLinear, {x, random_tensor({5, 12}, DType::kF64, "w"), b}), Error);
  EXPECT_THROW(evaluate(kLinear, {x, w, random_tensor({6}, DType::kF64, "b")}), Error);
  EXPECT_THROW(evaluate(kLinear, {x, cast(w, DType::kF32), Tensor()}), Error);
}

}  // namespace
}  // namespace spanwise::testing
