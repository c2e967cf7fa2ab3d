// The op harness itself: what it forgives and what it does not.

#include "tests/testing/op_testing.h"

#include <gtest/gtest-spi.h>

namespace spanwise::testing {
namespace {

Tensor values(const std::vector<double>& numbers) {
  return Tensor::from(test_context(), {int64_t(numbers.size())}, numbers);
}

TEST(Near, TakesAGradientThatIsZeroInTruthForTheRoundingOfWhatWasSummed) {
  // What one order of sums left of a zero, and what another one did, beside gradients of the size 3.
  const Tensor here = values({6.3e-16, -1.5e-16}), there = values({-6.3e-16, 1.2e-16});
  EXPECT_FALSE(near(here, there, 1e-10));
  EXPECT_TRUE(near(here, there, 1e-10, rounding_of(DType::kF64, size_of({here, Tensor(), values({-3})}))));
}

TEST(Near, DemandsOfASmallGradientBesideLargeOnesThatItIsRight) {
  const Tensor right = values({2e-6, 1e-6}), wrong = values({2e-6, 1.0000001e-6});
  const double rounding = rounding_of(DType::kF64, size_of({right, values({3})}));
  EXPECT_TRUE(near(right, right, 1e-10, rounding));
  EXPECT_FALSE(near(wrong, right, 1e-10, rounding));
  EXPECT_FALSE(near(values({2e-6, NAN}), right, 1e-10, rounding));
}

/// y = (1000 + x) − x and z = 2 x: the gradient of y is zero in truth, its value is rounded differently at
/// every x. `slip` is what a faulty backward adds.
OpFunction cancelling(double slip, bool with_z) {
  return [=](Tape& tape, const std::vector<Var>& in) {
    const double x = to_doubles(in[0].value())[0];
    const double z = with_z ? 2 * x : 0;
    const Var y = tape.output(Tensor::from(tape.context(), {2}, std::vector<double>{(1000 + x) - x, z}), in);
    tape.record(in, {y}, [&ctx = tape.context(), slip, with_z, x = in[0].adjoint(), y = y.adjoint()] {
      const double dz = with_z ? 2 * to_doubles(y.grad())[1] : 0;
      x.add_grad(ctx, Tensor::from(ctx, {1}, std::vector<double>{dz + slip}));
    });
    return std::vector<Var>{y};
  };
}

TEST(CheckGradients, TakesTheNoiseOfADifferenceForNoGradient) {
  check_gradients(cancelling(0, false), {values({1.37})}, {.dry = false});
}

TEST(CheckGradients, SeesABackwardThatIsAMillionthOff) {
  check_gradients(cancelling(0, true), {values({1.37})}, {.dry = false});
  EXPECT_NONFATAL_FAILURE(check_gradients(cancelling(1e-5, true), {values({1.37})}, {.dry = false}),
                          "finite difference");
  EXPECT_NONFATAL_FAILURE(check_gradients(cancelling(1e-6, false), {values({1.37})}, {.dry = false}),
                          "finite difference");
}

}  // namespace
}  // namespace spanwise::testing
