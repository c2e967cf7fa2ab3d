#include "core/ops/swiglu.h"

#include <cmath>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

const OpFunction kSwiglu = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{swiglu(tape, v[0], v[1])};
};

TEST(Swiglu, EqualsTheFormula) {
  const Tensor gate = random_tensor({2, 5000}, DType::kF64, "gate", 3.0),
               up = random_tensor({2, 5000}, DType::kF64, "up");
  const auto g = to_doubles(gate), u = to_doubles(up);
  Tensor expected = Tensor::empty(test_context(), gate.shape(), DType::kF64);
  for (size_t i = 0; i < g.size(); ++i) expected.data<double>()[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
  EXPECT_TRUE(near(evaluate(kSwiglu, {gate, up})[0], expected, kTolerance64.value));
}

TEST(Swiglu, GradientsEqualFiniteDifferences) {
  const Tensor gate = random_tensor({3, 13}, DType::kF64, "gate", 2.0),
               up = random_tensor({3, 13}, DType::kF64, "up");
  check_gradients(kSwiglu, {gate, up});
  check_fp32(kSwiglu, {gate, up});
}

TEST(Swiglu, ReadsTheHalvesOfOneProjection) {
  const Tensor both = random_tensor({6, 2, 34}, DType::kF64, "both");
  const Tensor gate = both.column_range(0, 17), up = both.column_range(17, 34);
  const Tensor gate_copy = gate.to_contiguous(test_context()), up_copy = up.to_contiguous(test_context());
  EXPECT_TRUE(bitwise_equal(evaluate(kSwiglu, {gate, up})[0], evaluate(kSwiglu, {gate_copy, up_copy})[0]));
  const auto a = gradients(kSwiglu, {gate, up}), b = gradients(kSwiglu, {gate_copy, up_copy});
  EXPECT_TRUE(bitwise_equal(a[0], b[0]));
  EXPECT_TRUE(bitwise_equal(a[1], b[1]));
}

TEST(Swiglu, ExtremeGatesGiveNoNan) {
  const Tensor gate = Tensor::from<float>(test_context(), {4}, {-1e4f, -200.0f, 200.0f, 1e4f});
  const Tensor up = Tensor::from<float>(test_context(), {4}, {1.0f, -2.0f, 3.0f, -4.0f});
  EXPECT_EQ(to_doubles(evaluate(kSwiglu, {gate, up})[0]), (std::vector<double>{0, 0, 600, -4e4}));
  for (const Tensor& grad : gradients(kSwiglu, {gate, up})) {
    for (double v : to_doubles(grad)) EXPECT_TRUE(std::isfinite(v));
  }
}

}  // namespace
}  // namespace spanwise::testing
