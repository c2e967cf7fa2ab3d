#include "core/ops/pointwise.h"

#include <cmath>

#include "core/ops/cpu/activations.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr Activation kKinds[] = {Activation::kNone, Activation::kSiLU, Activation::kSigmoid,
                                 Activation::kReLU, Activation::kEluPlusOne};

OpFunction activation_op(Activation kind) {
  return [kind](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{activation(tape, v[0], kind)};
  };
}
const OpFunction kAdd = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{add(tape, v[0], v[1])};
};
const OpFunction kMultiply = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{multiply(tape, v[0], v[1])};
};

double plain(Activation kind, double x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kSiLU:
      return x / (1 + std::exp(-x));
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::kReLU:
      return std::max(x, 0.0);
    case Activation::kEluPlusOne:
      return x > 0 ? x + 1 : std::exp(x);
  }
  return NAN;
}

TEST(Pointwise, AddAndMultiplyEqualTheFormula) {
  // Longer than one block of the parallel loop.
  const Tensor a = random_tensor({3, 5000}, DType::kF64, "a"), b = random_tensor({3, 5000}, DType::kF64, "b");
  const auto x = to_doubles(a), y = to_doubles(b), sum = to_doubles(evaluate(kAdd, {a, b})[0]),
             product = to_doubles(evaluate(kMultiply, {a, b})[0]);
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(sum[i], x[i] + y[i]) << i;
    ASSERT_EQ(product[i], x[i] * y[i]) << i;
  }
}

TEST(Pointwise, AddAndMultiplyGradientsEqualFiniteDifferences) {
  const Tensor a = random_tensor({3, 7}, DType::kF64, "a"), b = random_tensor({3, 7}, DType::kF64, "b");
  for (const OpFunction& op : {kAdd, kMultiply}) {
    check_gradients(op, {a, b});
    check_fp32(op, {a, b});
  }
  check_gradients([](Tape& tape, const std::vector<Var>& v) { return kMultiply(tape, {v[0], v[0]}); }, {a});
  check_gradients([](Tape& tape, const std::vector<Var>& v) { return kAdd(tape, {v[0], v[0]}); }, {a});
}

TEST(Pointwise, ReadsColumnBlocksOfDifferentWidths) {
  const Tensor wide = random_tensor({4, 40}, DType::kF64, "wide"),
               tall = random_tensor({8, 20}, DType::kF64, "tall");
  const Tensor a = wide.column_range(5, 25).reshape({4, 2, 10}),
               b = tall.column_range(3, 13).reshape({4, 2, 10});
  const Tensor a_copy = a.to_contiguous(test_context()), b_copy = b.to_contiguous(test_context());
  EXPECT_TRUE(bitwise_equal(evaluate(kMultiply, {a, b})[0], evaluate(kMultiply, {a_copy, b_copy})[0]));
  const OpFunction silu = activation_op(Activation::kSiLU);
  EXPECT_TRUE(bitwise_equal(evaluate(silu, {a})[0], evaluate(silu, {a_copy})[0]));
  EXPECT_TRUE(bitwise_equal(gradients(silu, {b})[0], gradients(silu, {b_copy})[0]));
}

TEST(Pointwise, RefusesUnequalShapesAndDtypes) {
  const Tensor a = random_tensor({3, 7}, DType::kF64, "a");
  EXPECT_THROW(evaluate(kAdd, {a, random_tensor({7, 3}, DType::kF64, "b")}), Error);
  EXPECT_THROW(evaluate(kMultiply, {a, random_tensor({3, 7}, DType::kF32, "b")}), Error);
}

TEST(Activation, EqualsTheFormula) {
  const Tensor x = random_tensor({9, 31}, DType::kF64, "x", 4.0);
  for (const Activation kind : kKinds) {
    const auto in = to_doubles(x), out = to_doubles(evaluate(activation_op(kind), {x})[0]);
    for (size_t i = 0; i < in.size(); ++i)
      EXPECT_NEAR(out[i], plain(kind, in[i]), 1e-13 * (1 + std::abs(in[i]))) << int(kind) << " at " << in[i];
  }
}

TEST(Activation, GradientsEqualFiniteDifferences) {
  const Tensor x = random_tensor({4, 10}, DType::kF64, "x", 3.0);
  for (const Activation kind : kKinds) {
    SCOPED_TRACE(int(kind));
    check_gradients(activation_op(kind), {x});
    check_fp32(activation_op(kind), {x});
  }
}

TEST(Activation, ExtremeValuesGiveNoNan) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const Tensor x =
        cast(Tensor::from<double>(test_context(), {6}, {-3e38, -1e4, -100, 100, 1e4, 3e38}), dtype);
    for (const Activation kind : kKinds) {
      for (double v : to_doubles(evaluate(activation_op(kind), {x})[0])) EXPECT_TRUE(std::isfinite(v)) << v;
      for (double v : to_doubles(gradients(activation_op(kind), {x})[0])) EXPECT_TRUE(std::isfinite(v)) << v;
    }
  }
}

TEST(Softplus, EqualsTheFormulaAndHasNoOverflow) {
  for (double x = -700; x <= 700; x += 0.375) {
    const double exact = x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
    EXPECT_NEAR(cpu::softplus(x) / exact, 1.0, 2e-14) << x;
    if (std::abs(x) < 80) {
      EXPECT_NEAR(double(cpu::softplus(float(x))) / exact, 1.0, 1e-6) << x;
    }
  }
  EXPECT_EQ(cpu::softplus(1e4f), 1e4f);
  EXPECT_EQ(cpu::softplus(-1e4f), 0.0f);
  EXPECT_EQ(cpu::softplus(3e38f), 3e38f);
}

}  // namespace
}  // namespace spanwise::testing
