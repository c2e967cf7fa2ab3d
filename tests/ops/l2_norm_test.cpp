#include "core/ops/l2_norm.h"

#include <cmath>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

const OpFunction kNorm = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{l2_norm(tape, v[0])};
};

TEST(L2Norm, EqualsTheFormula) {
  const Tensor x = random_tensor({2, 50, 3, 17}, DType::kF64, "x", 2.0);
  const auto values = to_doubles(x);
  Tensor expected = Tensor::empty(test_context(), x.shape(), DType::kF64);
  for (int64_t r = 0; r < x.numel() / 17; ++r) {
    double square = 0;
    for (int64_t i = 0; i < 17; ++i) square += values[r * 17 + i] * values[r * 17 + i];
    for (int64_t i = 0; i < 17; ++i)
      expected.data<double>()[r * 17 + i] = values[r * 17 + i] / std::sqrt(square + 1e-6);
  }
  EXPECT_TRUE(near(evaluate(kNorm, {x})[0], expected, kTolerance64.value));
}

TEST(L2Norm, GradientsEqualFiniteDifferences) {
  const Tensor x = random_tensor({67, 2, 9}, DType::kF64, "x");
  check_gradients(kNorm, {x});
  check_fp32(kNorm, {x});
  // Rows so short that eps counts.
  check_gradients(kNorm, {random_tensor({5, 9}, DType::kF64, "small", 1e-3)},
                  {.step = 1e-8, .tolerance = 1e-5});
}

TEST(L2Norm, ReadsColumnBlocks) {
  const Tensor block = random_tensor({6, 40}, DType::kF64, "x").column_range(8, 24).reshape({6, 2, 8});
  const Tensor copy = block.to_contiguous(test_context());
  EXPECT_TRUE(bitwise_equal(evaluate(kNorm, {block})[0], evaluate(kNorm, {copy})[0]));
  EXPECT_TRUE(bitwise_equal(gradients(kNorm, {block})[0], gradients(kNorm, {copy})[0]));
}

TEST(L2Norm, AZeroRowGivesZero) {
  const Tensor x = Tensor::zeros(test_context(), {3, 8}, DType::kF32);
  for (double v : to_doubles(evaluate(kNorm, {x})[0])) EXPECT_EQ(v, 0.0);
  for (double v : to_doubles(gradients(kNorm, {x})[0])) EXPECT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace spanwise::testing
