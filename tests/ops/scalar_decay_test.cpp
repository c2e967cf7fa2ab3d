#include "core/ops/scalar_decay.h"

#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

const LinearFamily kFamily = [](Tape& tape, const std::vector<Var>& x, const Tensor& head_log_decay,
                                const SequenceLayout& layout, const LinearStateOptions& options) {
  return scalar_decay(tape, x[0], x[1], x[2], {.per_token = x[3], .per_head = head_log_decay}, layout, x[5],
                      options);
};

TEST(ScalarDecay, ChunkedEqualsTheTokenRecurrence) {
  expect_equals_recurrence(kFamily, false);
}
TEST(ScalarDecay, GradientsEqualFiniteDifferences) {
  expect_gradients_equal_finite_differences(kFamily, false);
}
TEST(ScalarDecay, Fp32LiesWithinTheTable) {
  expect_fp32_within_table(kFamily, false);
}
TEST(ScalarDecay, StepsEqualTheChunkedResult) {
  expect_step_equals_chunked(kFamily, scalar_decay_step, false);
}
TEST(ScalarDecay, ADocumentNeverSeesTheOneBefore) {
  expect_documents_do_not_leak(kFamily, false);
}
TEST(ScalarDecay, OutputsBeforeAChangedTokenStayBitwiseEqual) {
  expect_causal_to_the_bit(kFamily, false);
}
TEST(ScalarDecay, OneAndTwoThreadsAgreeBitwise) {
  expect_independent_of_threads(kFamily, false);
}
TEST(ScalarDecay, ReadsColumnBlocks) {
  expect_reads_column_blocks(kFamily, false);
}
TEST(ScalarDecay, NoDecayGivesNaNOrInfinity) {
  expect_finite_with_any_decay(kFamily, false);
}

TEST(ScalarDecay, InitialStateHasNoGradientWhereADocumentStarts) {
  const LinearCase c{.name = "", .B = 2, .T = 20, .starts = {0}};
  const Tensor d = gradients(op_of(c, kFamily), operands_of(c, false))[5];
  for (int64_t i = 0; i < c.K * c.V; ++i) ASSERT_EQ(d.data<double>()[i], 0.0);
  EXPECT_NE(d.data<double>()[c.K * c.V], 0.0);
}

TEST(ScalarDecay, RefusesTwoDecaysAndUnevenHeads) {
  LinearCase c{.name = "", .HV = 2};
  std::vector<Tensor> x = operands_of(c, false);
  c.gate = Gate::kPerHead;
  EXPECT_THROW(evaluate(op_of(c, kFamily), x), Error);
  const LinearCase uneven{.name = "", .H = 2, .HV = 3};
  EXPECT_THROW(evaluate(op_of(uneven, kFamily), operands_of(uneven, false)), Error);
}

}  // namespace
}  // namespace spanwise::testing
