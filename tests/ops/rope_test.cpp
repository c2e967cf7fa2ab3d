#include "core/ops/rope.h"

#include <cmath>
#include <complex>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr double kTheta = 10000.0;

OpFunction rotate(const std::vector<int64_t>& positions, int64_t rotary_dim = 0, double theta = kTheta) {
  return [=](Tape& tape, const std::vector<Var>& x) {
    return std::vector<Var>{rope(tape, x[0], positions, theta, rotary_dim)};
  };
}

// Two documents in the first row, one that continues from position 7 in the second.
const std::vector<int64_t> kPositions{0, 1, 2, 0, 1, 7, 8, 9, 10, 11};

// Multiplication of x_i + j x_{i+R/2} by e^{j angle}.
Tensor plain_rope(const Tensor& x, const std::vector<int64_t>& positions, int64_t rotary_dim,
                  double theta = kTheta) {
  const int64_t heads = x.dim(2), width = x.dim(3), half = rotary_dim / 2;
  std::vector<double> values = to_doubles(x);
  for (size_t t = 0; t < positions.size(); ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      double* v = values.data() + (int64_t(t) * heads + h) * width;
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(positions[t]) / std::pow(theta, double(2 * i) / double(rotary_dim));
        const auto turned = std::complex<double>(v[i], v[i + half]) * std::polar(1.0, angle);
        v[i] = turned.real();
        v[i + half] = turned.imag();
      }
    }
  }
  return Tensor::from<double>(test_context(), x.shape(), values);
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

TEST(Rope, EqualsTheFormula) {
  const Tensor x = random_tensor({2, 5, 3, 8}, DType::kF64, "x");
  for (int64_t rotary_dim : {8, 6, 2})
    EXPECT_TRUE(near(evaluate(rotate(kPositions, rotary_dim), {x})[0], plain_rope(x, kPositions, rotary_dim),
                     kTolerance64.value));
  EXPECT_TRUE(bitwise_equal(evaluate(rotate(kPositions), {x})[0], evaluate(rotate(kPositions, 8), {x})[0]));
}

TEST(Rope, OneToken) {
  const Tensor x = random_tensor({1, 1, 2, 4}, DType::kF64, "x");
  EXPECT_TRUE(near(evaluate(rotate({123456}), {x})[0], plain_rope(x, {123456}, 4), kTolerance64.value));
}

TEST(Rope, TablesOfOneContextServeMoreSettingsThanItKeeps) {
  const Tensor x = random_tensor({1, 3, 2, 4}, DType::kF64, "x");
  for (int round = 0; round < 2; ++round) {
    for (const int64_t first : {0, 7, 100}) {
      for (const double theta : {100.0, 1e6}) {
        const std::vector<int64_t> positions{first, first + 1, first + 2};
        EXPECT_TRUE(near(evaluate(rotate(positions, 0, theta), {x})[0], plain_rope(x, positions, 4, theta),
                         kTolerance64.value));
      }
    }
  }
}

TEST(Rope, ScoresDependOnTheDistanceAlone) {
  const Tensor qk = random_tensor({1, 2, 1, 16}, DType::kF64, "qk");
  const Tensor near_start = evaluate(rotate({3, 10}), {qk})[0], far = evaluate(rotate({1003, 1010}), {qk})[0];
  const double *a = near_start.data<double>(), *b = far.data<double>();
  EXPECT_NEAR(dot(a, a + 16, 16), dot(b, b + 16, 16), 1e-10);
}

TEST(Rope, GradientsEqualFiniteDifferences) {
  const Tensor x = random_tensor({2, 5, 3, 8}, DType::kF64, "x");
  check_gradients(rotate(kPositions), {x}, {.max_elements = 240});
  check_gradients(rotate(kPositions, 6), {x}, {.max_elements = 240});
}

TEST(Rope, ReadsColumnBlocks) {
  const Tensor block = random_tensor({10, 40}, DType::kF64, "wide").column_range(8, 32).reshape({2, 5, 3, 8});
  const Tensor copy = block.to_contiguous(test_context());
  EXPECT_TRUE(
      bitwise_equal(evaluate(rotate(kPositions), {block})[0], evaluate(rotate(kPositions), {copy})[0]));
}

TEST(Rope, Fp32LiesWithinTheTable) {
  check_fp32(rotate(kPositions, 6), {random_tensor({2, 5, 3, 8}, DType::kF64, "x")});
}

TEST(Rope, RefusesWhatDoesNotFit) {
  const Tensor x = random_tensor({2, 5, 3, 8}, DType::kF64, "x");
  EXPECT_THROW(evaluate(rotate({0, 1, 2}), {x}), Error);
  EXPECT_THROW(evaluate(rotate(kPositions, 10), {x}), Error);
  EXPECT_THROW(evaluate(rotate(kPositions, 3), {x}), Error);
}

}  // namespace
}  // namespace spanwise::testing
