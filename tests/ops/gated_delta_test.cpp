#include "core/ops/gated_delta.h"

#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

TEST(GatedDelta, ChunkedEqualsTheTokenRecurrence) {
  expect_equals_recurrence(kGatedDelta);
}
TEST(GatedDelta, GradientsEqualFiniteDifferences) {
  expect_gradients_equal_finite_differences(kGatedDelta);
}
TEST(GatedDelta, Fp32LiesWithinTheTable) {
  expect_fp32_within_table(kGatedDelta);
}
TEST(GatedDelta, StepsEqualTheChunkedResult) {
  expect_step_equals_chunked(kGatedDelta);
}
TEST(GatedDelta, ADocumentNeverSeesTheOneBefore) {
  expect_documents_do_not_leak(kGatedDelta);
}
TEST(GatedDelta, OutputsBeforeAChangedTokenStayBitwiseEqual) {
  expect_causal_to_the_bit(kGatedDelta);
}
TEST(GatedDelta, OneAndTwoThreadsAgreeBitwise) {
  expect_independent_of_threads(kGatedDelta);
}
TEST(GatedDelta, ReadsColumnBlocks) {
  expect_reads_column_blocks(kGatedDelta);
}
TEST(GatedDelta, NoDecayGivesNaNOrInfinity) {
  expect_finite_with_any_decay(kGatedDelta);
}
TEST(GatedDelta, RefusesOperandsOfOtherFamiliesAndShapes) {
  expect_refuses_other_operands(kGatedDelta);
}

// With orthonormal keys, beta = 1 and no decay, each key's row of the state is the last value written to it.
TEST(GatedDelta, OverwritesTheValueOfAKeySeenAgain) {
  const LinearCase c{.name = "", .T = 12, .K = 4, .V = 2, .gate = Gate::kNone, .initial = false};
  std::vector<Tensor> x = operands_of(c, kGatedDelta);
  x[1].fill(0);
  x[4].fill(1);
  for (int64_t t = 0; t < c.T; ++t) x[1].data<double>()[t * c.K + t % c.K] = 1;
  const Tensor last_values = x[2].reshape({c.T, c.V}).row_range(c.T - c.K, c.T).reshape({1, 1, c.K, c.V});
  EXPECT_TRUE(near(evaluate(op_of(c, kGatedDelta), x)[1], last_values, kTolerance64.value));
}

}  // namespace
}  // namespace spanwise::testing
