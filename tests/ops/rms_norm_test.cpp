#include "core/ops/rms_norm.h"

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

const OpFunction kNorm = [](Tape& tape, const std::vector<Var>& x) {
  return std::vector<Var>{rms_norm(tape, x[0], x[1], 1e-6)};
};
const OpFunction kAddNorm = [](Tape& tape, const std::vector<Var>& x) {
  const AddRmsNorm out = add_rms_norm(tape, x[0], x[1], x[2], 1e-6);
  return std::vector<Var>{out.sum, out.normed};
};

Tensor plain_norm(const Tensor& x, const Tensor& weight, double eps) {
  const int64_t width = x.dim(-1);
  Tensor y = Tensor::empty(test_context(), x.shape(), DType::kF64);
  const auto values = to_doubles(x), w = to_doubles(weight);
  for (int64_t r = 0; r < x.numel() / width; ++r) {
    double square = 0;
    for (int64_t i = 0; i < width; ++i) square += values[r * width + i] * values[r * width + i];
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = r * width + i;
      y.data<double>()[at] = values[at] / std::sqrt(square / double(width) + eps) * w[at % w.size()];
    }
  }
  return y;
}

TEST(RmsNorm, EqualsTheFormula) {
  const Tensor x = random_tensor({2, 5, 24}, DType::kF64, "x", 2.0),
               w = random_tensor({24}, DType::kF64, "w");
  EXPECT_TRUE(near(evaluate(kNorm, {x, w})[0], plain_norm(x, w, 1e-6), kTolerance64.value));
}

TEST(RmsNorm, WeightPerGroupCoversTwoTrailingDimensions) {
  const Tensor x = random_tensor({3, 4, 8}, DType::kF64, "x"), w = random_tensor({32}, DType::kF64, "w");
  EXPECT_TRUE(near(evaluate(kNorm, {x, w})[0], plain_norm(x, w, 1e-6), kTolerance64.value));
  check_gradients(kNorm, {x, w});
}

TEST(RmsNorm, ReadsColumnBlocks) {
  const Tensor wide = random_tensor({6, 40}, DType::kF64, "x"), w = random_tensor({8}, DType::kF64, "w");
  const Tensor block = wide.column_range(8, 24).reshape({6, 2, 8});
  const Tensor copy = block.to_contiguous(test_context());
  EXPECT_TRUE(bitwise_equal(evaluate(kNorm, {block, w})[0], evaluate(kNorm, {copy, w})[0]));
}

TEST(RmsNorm, GradientsEqualFiniteDifferences) {
  const Tensor x = random_tensor({70, 12}, DType::kF64, "x"), r = random_tensor({70, 12}, DType::kF64, "r"),
               w = random_tensor({12}, DType::kF64, "w");
  check_gradients(kNorm, {x, w});
  check_gradients(kNorm, {x, Tensor()});
  check_gradients(kAddNorm, {x, r, w});
}

TEST(RmsNorm, Fp32LiesWithinTheTable) {
  const Tensor x = random_tensor({70, 12}, DType::kF64, "x"), r = random_tensor({70, 12}, DType::kF64, "r"),
               w = random_tensor({12}, DType::kF64, "w");
  check_fp32(kAddNorm, {x, r, w});
}

TEST(RmsNorm, HalfARowWithTheOtherHalfsSquaresGivesHalfTheResult) {
  const Tensor x = random_tensor({7, 10}, DType::kF64, "x"), w = random_tensor({10}, DType::kF64, "w");
  const auto add_right_half = [&](const Tensor& sums) {
    for (int64_t i = 0; i < 70; ++i)
      sums.data<double>()[i / 10] += i % 10 < 5 ? 0 : x.data<double>()[i] * x.data<double>()[i];
  };
  const OpFunction half = [&](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{rms_norm(tape, v[0], v[1], 1e-5, {.whole = 10, .sum = add_right_half})};
  };
  const OpFunction whole = [](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{rms_norm(tape, v[0], v[1], 1e-5)};
  };
  const Tensor y = evaluate(half, {x.column_range(0, 5), w.slice_flat(0, {5})})[0];
  EXPECT_TRUE(near(y, evaluate(whole, {x, w})[0].column_range(0, 5), kTolerance64.value));
}

}  // namespace
}  // namespace spanwise::testing
