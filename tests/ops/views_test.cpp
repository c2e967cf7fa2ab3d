#include "core/ops/views.h"

#include "core/ops/pointwise.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

TEST(Reshape, SharesMemoryAndReturnsTheGradientInTheOldShape) {
  const Tensor x = random_tensor({4, 6}, DType::kF64, "x");
  const OpFunction op = [](Tape& tape, const std::vector<Var>& v) {
    const Var out = reshape(tape, v[0], {2, 2, 6});
    return std::vector<Var>{multiply(tape, out, out)};
  };
  Tape tape(test_context());
  EXPECT_TRUE(reshape(tape, Var(x, true), {24}).value().shares_memory_with(x));
  check_gradients(op, {x});
}

TEST(SplitColumns, BlocksAreViewsOfTheInput) {
  const Tensor x = random_tensor({2, 3, 10}, DType::kF64, "x");
  Tape tape(test_context());
  const auto blocks = split_columns(tape, Var(x), {2, 5, 3});
  ASSERT_EQ(blocks.size(), 3u);
  const auto all = to_doubles(x);
  int64_t begin = 0;
  for (const Var& block : blocks) {
    EXPECT_TRUE(block.value().shares_memory_with(x));
    const int64_t width = block.dim(-1);
    const auto values = to_doubles(block.value());
    for (int64_t i = 0; i < block.value().numel(); ++i)
      EXPECT_EQ(values[i], all[i / width * 10 + begin + i % width]);
    begin += width;
  }
}

TEST(SplitColumns, GradientsEqualFiniteDifferences) {
  const OpFunction op = [](Tape& tape, const std::vector<Var>& v) {
    const auto blocks = split_columns(tape, v[0], {2, 4, 4});
    const Var product = multiply(tape, blocks[1], blocks[2]);
    return std::vector<Var>{reshape(tape, product, {70, 2, 2}),
                            activation(tape, blocks[0], Activation::kSiLU)};
  };
  const Tensor x = random_tensor({35, 2, 10}, DType::kF64, "x");
  check_gradients(op, {x});
  check_gradients(op, {random_tensor({35, 2, 14}, DType::kF64, "wide").column_range(3, 13)});
  check_fp32(op, {x});
}

TEST(SplitColumns, ABlockThatBackwardDoesNotReachHasZeroGradient) {
  Tape tape(test_context());
  const Var x(random_tensor({5, 6}, DType::kF64, "x"), true);
  const auto blocks = split_columns(tape, x, {4, 2});
  const Tensor seed = random_tensor({5, 2}, DType::kF64, "seed");
  tape.backward({blocks[1]}, {seed});
  EXPECT_TRUE(bitwise_equal(x.grad().column_range(4, 6), seed));
  for (double g : to_doubles(x.grad().column_range(0, 4))) EXPECT_EQ(g, 0.0);
}

TEST(SplitColumns, RefusesWidthsThatDoNotAddUp) {
  Tape tape(test_context());
  EXPECT_THROW(split_columns(tape, Var(random_tensor({5, 6}, DType::kF64, "x")), {4, 1}), Error);
}

}  // namespace
}  // namespace spanwise::testing
