#include "core/ops/scalar_decay.h"

#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

TEST(ScalarDecay, ChunkedEqualsTheTokenRecurrence) {
  expect_equals_recurrence(kScalarDecay);
}
TEST(ScalarDecay, GradientsEqualFiniteDifferences) {
  expect_gradients_equal_finite_differences(kScalarDecay);
}
TEST(ScalarDecay, Fp32LiesWithinTheTable) {
  expect_fp32_within_table(kScalarDecay);
}
TEST(ScalarDecay, StepsEqualTheChunkedResult) {
  expect_step_equals_chunked(kScalarDecay);
}
TEST(ScalarDecay, ADocumentNeverSeesTheOneBefore) {
  expect_documents_do_not_leak(kScalarDecay);
}
TEST(ScalarDecay, OutputsBeforeAChangedTokenStayBitwiseEqual) {
  expect_causal_to_the_bit(kScalarDecay);
}
TEST(ScalarDecay, OneAndTwoThreadsAgreeBitwise) {
  expect_independent_of_threads(kScalarDecay);
}
TEST(ScalarDecay, ReadsColumnBlocks) {
  expect_reads_column_blocks(kScalarDecay);
}
TEST(ScalarDecay, NoDecayGivesNaNOrInfinity) {
  expect_finite_with_any_decay(kScalarDecay);
}
TEST(ScalarDecay, RefusesOperandsOfOtherFamiliesAndShapes) {
  expect_refuses_other_operands(kScalarDecay);
}

TEST(ScalarDecay, InitialStateHasNoGradientWhereADocumentStarts) {
  const LinearCase c{.name = "", .B = 2, .T = 20, .starts = {0}};
  const Tensor d = gradients(op_of(c, kScalarDecay), operands_of(c, kScalarDecay))[5];
  for (int64_t i = 0; i < c.K * c.V; ++i) ASSERT_EQ(d.data<double>()[i], 0.0);
  EXPECT_NE(d.data<double>()[c.K * c.V], 0.0);
}

TEST(ScalarDecay, RefusesUnevenHeads) {
  const LinearCase uneven{.name = "", .H = 2, .HV = 3};
  EXPECT_THROW(evaluate(op_of(uneven, kScalarDecay), operands_of(uneven, kScalarDecay)), Error);
}

}  // namespace
}  // namespace spanwise::testing
