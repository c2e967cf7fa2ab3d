#include "core/ops/gates.h"

#include <algorithm>
#include <cmath>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Operands: a, A_log, dt_bias.
const OpFunction kDecay = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{decay_gate(tape, v[0], v[1], v[2])};
};
// Operands: x, dt, A_log, dt_bias.
OpFunction mamba2_op(StepRange range) {
  return [range](Tape& tape, const std::vector<Var>& v) {
    const Mamba2Gates gates = mamba2_gates(tape, v[0], v[1], v[2], v[3], range);
    return std::vector<Var>{gates.v, gates.g};
  };
}
// Operands: y, x, D.
const OpFunction kSkip = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{head_skip(tape, v[0], v[1], v[2])};
};
OpFunction sigmoid_op(double scale) {
  return [scale](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{scaled_sigmoid(tape, v[0], scale)};
  };
}

Tensor f64(const Shape& shape, const std::string& name, double scale = 1.0, double shift = 0.0) {
  return random_tensor(shape, DType::kF64, name, scale, shift);
}

double softplus(double x) {
  return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0);
}

void expect_finite(const OpFunction& op, const std::vector<Tensor>& operands) {
  for (const Tensor& t : evaluate(op, operands)) {
    for (double v : to_doubles(t)) EXPECT_TRUE(std::isfinite(v));
  }
  for (const Tensor& t : gradients(op, operands)) {
    for (double v : to_doubles(t)) EXPECT_TRUE(std::isfinite(v));
  }
}

void expect_equal_to_copies(const OpFunction& op, const std::vector<Tensor>& operands) {
  std::vector<Tensor> copies;
  for (const Tensor& t : operands) copies.push_back(t.to_contiguous(test_context()));
  const auto out = evaluate(op, operands), out_copy = evaluate(op, copies);
  const auto grads = gradients(op, operands), grads_copy = gradients(op, copies);
  for (size_t i = 0; i < out.size(); ++i) EXPECT_TRUE(bitwise_equal(out[i], out_copy[i])) << i;
  for (size_t i = 0; i < grads.size(); ++i) EXPECT_TRUE(bitwise_equal(grads[i], grads_copy[i])) << i;
}

TEST(DecayGate, EqualsTheFormula) {
  const Tensor a = f64({2, 90, 5}, "a", 3.0), A_log = f64({5}, "A_log"), bias = f64({5}, "bias", 2.0);
  const auto in = to_doubles(a), A = to_doubles(A_log), b = to_doubles(bias);
  Tensor expected = Tensor::empty(test_context(), a.shape(), DType::kF64);
  for (size_t i = 0; i < in.size(); ++i)
    expected.data<double>()[i] = -std::exp(A[i % 5]) * softplus(in[i] + b[i % 5]);
  EXPECT_TRUE(near(evaluate(kDecay, {a, A_log, bias})[0], expected, kTolerance64.value));
}

TEST(DecayGate, GradientsEqualFiniteDifferences) {
  const Tensor A_log = f64({5}, "A_log"), bias = f64({5}, "bias", 2.0);
  for (const int64_t tokens : {1, 130}) {
    check_gradients(kDecay, {f64({tokens, 5}, "a", 2.0), A_log, bias});
    check_fp32(kDecay, {f64({tokens, 5}, "a", 2.0), A_log, bias});
  }
}

TEST(DecayGate, ReadsColumnBlocksAndExtremeValues) {
  const Tensor A_log = f64({5}, "A_log"), bias = f64({5}, "bias");
  expect_equal_to_copies(kDecay, {f64({70, 13}, "wide").column_range(4, 9), A_log, bias});
  expect_finite(kDecay, {Tensor::from<float>(test_context(), {1, 5}, {-1e4f, -100, 0, 100, 1e4f}),
                         cast(A_log, DType::kF32), cast(bias, DType::kF32)});
}

TEST(ScaledSigmoid, EqualsTheFormulaAndFiniteDifferences) {
  const Tensor x = f64({3, 41}, "x", 3.0);
  for (const double scale : {1.0, 2.0}) {
    const auto in = to_doubles(x), out = to_doubles(evaluate(sigmoid_op(scale), {x})[0]);
    for (size_t i = 0; i < in.size(); ++i) EXPECT_NEAR(out[i], scale / (1 + std::exp(-in[i])), 1e-14);
    check_gradients(sigmoid_op(scale), {x});
    check_fp32(sigmoid_op(scale), {x});
    expect_equal_to_copies(sigmoid_op(scale), {x.column_range(3, 20)});
    expect_finite(sigmoid_op(scale), {Tensor::from<float>(test_context(), {4}, {-1e4f, -90, 90, 1e4f})});
  }
}

TEST(Mamba2Gates, EqualTheFormula) {
  const int64_t H = 3, P = 10;
  const Tensor x = f64({2, 70, H, P}, "x"), dt = f64({2, 70, H}, "dt", 2.0), A_log = f64({H}, "A_log"),
               bias = f64({H}, "bias");
  const auto xs = to_doubles(x), dts = to_doubles(dt), A = to_doubles(A_log), b = to_doubles(bias);
  for (const StepRange range : {StepRange{}, StepRange{0.3, 1.5}}) {
    Tensor v = Tensor::empty(test_context(), x.shape(), DType::kF64),
           g = Tensor::empty(test_context(), dt.shape(), DType::kF64);
    for (size_t i = 0; i < dts.size(); ++i) {
      const double delta = std::clamp(softplus(dts[i] + b[i % H]), range.min, range.max);
      g.data<double>()[i] = -std::exp(A[i % H]) * delta;
      for (int64_t p = 0; p < P; ++p) v.data<double>()[i * P + p] = delta * xs[i * P + p];
    }
    const auto out = evaluate(mamba2_op(range), {x, dt, A_log, bias});
    EXPECT_TRUE(near(out[0], v, kTolerance64.value));
    EXPECT_TRUE(near(out[1], g, kTolerance64.value));
  }
}

TEST(Mamba2Gates, GradientsEqualFiniteDifferences) {
  const Tensor A_log = f64({3}, "A_log"), bias = f64({3}, "bias");
  for (const StepRange range : {StepRange{}, StepRange{0.3, 1.5}}) {
    for (const int64_t length : {1, 67}) {
      const std::vector<Tensor> in{f64({2, length, 3, 5}, "x"), f64({2, length, 3}, "dt", 2.0), A_log, bias};
      check_gradients(mamba2_op(range), in, {.max_elements = 80});
      check_fp32(mamba2_op(range), in);
    }
  }
}

TEST(Mamba2Gates, AClampedStepHasNoGradient) {
  const Tensor x = f64({1, 2, 1, 4}, "x"), A_log = f64({1}, "A_log"),
               bias = Tensor::zeros(test_context(), {1}, DType::kF64);
  const Tensor dt = Tensor::from<double>(test_context(), {1, 2, 1}, {-5.0, 5.0});
  const auto grads = gradients(mamba2_op({0.1, 2.0}), {x, dt, A_log, bias});
  EXPECT_EQ(to_doubles(grads[1]), (std::vector<double>{0, 0}));
  EXPECT_NE(to_doubles(grads[2])[0], 0.0);
}

TEST(Mamba2Gates, ReadColumnBlocksAndExtremeValues) {
  const Tensor A_log = f64({3}, "A_log"), bias = f64({3}, "bias"), wide = f64({2, 40, 31}, "wide");
  const Tensor x = wide.column_range(2, 26).reshape({2, 40, 3, 8}), dt = wide.column_range(27, 30);
  expect_equal_to_copies(mamba2_op({}), {x, dt, A_log, bias});
  const std::vector<Tensor> extreme{random_tensor({1, 1, 3, 8}, DType::kF32, "x"),
                                    Tensor::from<float>(test_context(), {1, 1, 3}, {-1e4f, 0.0f, 1e4f}),
                                    cast(A_log, DType::kF32), cast(bias, DType::kF32)};
  expect_finite(mamba2_op({}), extreme);
  expect_finite(mamba2_op({0.001, 0.1}), extreme);
}

TEST(Mamba2Gates, RefuseAnEmptyRange) {
  EXPECT_THROW(evaluate(mamba2_op({0.2, 0.1}),
                        {f64({1, 1, 3, 2}, "x"), f64({1, 1, 3}, "dt"), f64({3}, "A"), f64({3}, "b")}),
               Error);
}

TEST(HeadSkip, EqualsTheFormulaAndFiniteDifferences) {
  const int64_t H = 3, P = 5;
  for (const int64_t length : {1, 70}) {
    const Tensor y = f64({2, length, H, P}, "y"), x = f64({2, length, H, P}, "x"), D = f64({H}, "D");
    const auto ys = to_doubles(y), xs = to_doubles(x), d = to_doubles(D);
    const auto out = to_doubles(evaluate(kSkip, {y, x, D})[0]);
    for (size_t i = 0; i < xs.size(); ++i) EXPECT_NEAR(out[i], ys[i] + d[i / P % H] * xs[i], 1e-14);
    check_gradients(kSkip, {y, x, D});
    check_fp32(kSkip, {y, x, D});
  }
  const Tensor wide = f64({2, 40, 40}, "wide");
  expect_equal_to_copies(kSkip, {wide.column_range(0, 15).reshape({2, 40, H, P}),
                                 wide.column_range(20, 35).reshape({2, 40, H, P}), f64({H}, "D")});
}

TEST(Gates, ParameterGradientsDoNotDependOnTheThreadCount) {
  const std::vector<Tensor> in{f64({2, 300, 3, 4}, "x"), f64({2, 300, 3}, "dt"), f64({3}, "A"),
                               f64({3}, "b")};
  std::vector<std::vector<Tensor>> results;
  for (const int threads : {1, 3}) {
    Context ctx({.num_threads = threads});
    Tape tape(ctx);
    std::vector<Var> leaves;
    for (const Tensor& t : in) leaves.emplace_back(t, true);
    const Mamba2Gates gates = mamba2_gates(tape, leaves[0], leaves[1], leaves[2], leaves[3], {0, kInf});
    const Var out = head_skip(tape, gates.v, leaves[0], leaves[3]);
    const Var decay = decay_gate(tape, leaves[1], leaves[2], leaves[3]);
    tape.backward({out, gates.g, decay},
                  {f64(out.shape(), "s0"), f64(decay.shape(), "s1"), f64(decay.shape(), "s2")});
    results.emplace_back();
    for (const Var& leaf : leaves) results.back().push_back(leaf.grad());
  }
  for (size_t i = 0; i < in.size(); ++i) EXPECT_TRUE(bitwise_equal(results[0][i], results[1][i])) << i;
}

}  // namespace
}  // namespace spanwise::testing
