#include "core/ops/gated_delta.h"

#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

// The family has no decay per head: those cases pass it per token, as a constant.
const LinearFamily kFamily = [](Tape& tape, const std::vector<Var>& x, const Tensor& head_log_decay,
                                const SequenceLayout& layout, const LinearStateOptions& options) {
  Var log_decay = x[3];
  if (head_log_decay.defined()) {
    const int64_t HV = head_log_decay.numel();
    const Tensor g = Tensor::empty(test_context(), x[4].shape(), DType::kF64);
    const std::vector<double> heads = to_doubles(head_log_decay);
    for (int64_t i = 0; i < g.numel(); ++i) g.data<double>()[i] = heads[i % HV];
    log_decay = Var(cast(g, x[0].value().dtype()));
  }
  return gated_delta(tape, x[0], x[1], x[2], log_decay, x[4], layout, x[5], options);
};

TEST(GatedDelta, ChunkedEqualsTheTokenRecurrence) {
  expect_equals_recurrence(kFamily, true);
}
TEST(GatedDelta, GradientsEqualFiniteDifferences) {
  expect_gradients_equal_finite_differences(kFamily, true);
}
TEST(GatedDelta, Fp32LiesWithinTheTable) {
  expect_fp32_within_table(kFamily, true);
}
TEST(GatedDelta, StepsEqualTheChunkedResult) {
  expect_step_equals_chunked(kFamily, gated_delta_step, true);
}
TEST(GatedDelta, ADocumentNeverSeesTheOneBefore) {
  expect_documents_do_not_leak(kFamily, true);
}
TEST(GatedDelta, OutputsBeforeAChangedTokenStayBitwiseEqual) {
  expect_causal_to_the_bit(kFamily, true);
}
TEST(GatedDelta, OneAndTwoThreadsAgreeBitwise) {
  expect_independent_of_threads(kFamily, true);
}
TEST(GatedDelta, ReadsColumnBlocks) {
  expect_reads_column_blocks(kFamily, true);
}
TEST(GatedDelta, NoDecayGivesNaNOrInfinity) {
  expect_finite_with_any_decay(kFamily, true);
}

TEST(GatedDelta, NeedsBeta) {
  const LinearCase c{.name = ""};
  EXPECT_THROW(evaluate(op_of(c, kFamily), operands_of(c, false)), Error);
}

// With orthonormal keys, beta = 1 and no decay, each key's row of the state is the last value written to it.
TEST(GatedDelta, OverwritesTheValueOfAKeySeenAgain) {
  const LinearCase c{.name = "", .T = 12, .K = 4, .V = 2, .gate = Gate::kNone, .initial = false};
  std::vector<Tensor> x = operands_of(c, true);
  x[1].fill(0);
  x[4].fill(1);
  for (int64_t t = 0; t < c.T; ++t) x[1].data<double>()[t * c.K + t % c.K] = 1;
  const Tensor last_values = x[2].reshape({c.T, c.V}).row_range(c.T - c.K, c.T).reshape({1, 1, c.K, c.V});
  EXPECT_TRUE(near(evaluate(op_of(c, kFamily), x)[1], last_values, kTolerance64.value));
}

}  // namespace
}  // namespace spanwise::testing
