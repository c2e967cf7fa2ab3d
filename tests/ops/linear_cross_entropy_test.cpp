#include "core/ops/linear_cross_entropy.h"

#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kVocab = 11, kWidth = 6;

OpFunction cross_entropy(const std::vector<int32_t>& labels, const CrossEntropyOptions& options) {
  return [=](Tape& tape, const std::vector<Var>& x) {
    return std::vector<Var>{linear_cross_entropy(tape, x[0], x[1], labels, options).loss};
  };
}

// Every third label is ignored.
std::vector<int32_t> some_labels(int64_t n) {
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < n; ++i) labels.push_back(i % 3 == 1 ? kIgnoredLabel : int32_t(i * 7 % kVocab));
  return labels;
}

double plain_loss(const Tensor& x, const Tensor& weight, const std::vector<int32_t>& labels) {
  const Tensor logits = linear_fwd(test_context(), x, weight, Tensor());
  const auto z = to_doubles(logits);
  const int64_t vocab = weight.dim(0);
  double loss = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == kIgnoredLabel) continue;
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp(z[i * vocab + v]);
    loss += std::log(sum) - z[i * vocab + labels[i]];
  }
  return loss;
}

class LinearCrossEntropy : public ::testing::Test {
 protected:
  const Tensor x = random_tensor({2, 7, kWidth}, DType::kF64, "x"),
               w = random_tensor({kVocab, kWidth}, DType::kF64, "w");
  const std::vector<int32_t> labels = some_labels(14);
};

TEST_F(LinearCrossEntropy, EqualsTheFormulaForEveryChunkSize) {
  const double expected = 0.3 * plain_loss(x, w, labels);
  for (int64_t chunk : {1, 3, 14, 256}) {
    const Tensor loss = evaluate(cross_entropy(labels, {0.3, chunk}), {x, w})[0];
    EXPECT_NEAR(loss.data<double>()[0], expected, kTolerance64.value * expected) << "chunk " << chunk;
  }
}

TEST_F(LinearCrossEntropy, CountsItsTargets) {
  Tape tape(test_context(), Tape::Mode::kInference);
  EXPECT_EQ(linear_cross_entropy(tape, Var(x), Var(w), labels).num_targets, 9);
}

TEST_F(LinearCrossEntropy, GradientsEqualFiniteDifferencesAndDoNotDependOnTheChunkSize) {
  check_gradients(cross_entropy(labels, {0.3, 4}), {x, w}, {.max_elements = 100});
  const auto whole = gradients(cross_entropy(labels, {0.3, 256}), {x, w});
  for (int64_t chunk : {1, 5, 14}) {
    const auto chunked = gradients(cross_entropy(labels, {0.3, chunk}), {x, w});
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(near(chunked[i], whole[i], kTolerance64.value)) << chunk;
  }
}

TEST_F(LinearCrossEntropy, OneRowAndOneTarget) {
  const Tensor row = random_tensor({1, 1, kWidth}, DType::kF64, "row");
  check_gradients(cross_entropy({3}, {1.0, 256}), {row, w}, {.max_elements = 100});
}

TEST_F(LinearCrossEntropy, ReadsColumnBlocks) {
  const Tensor block = random_tensor({14, 20}, DType::kF64, "wide").column_range(3, 9);
  const Tensor copy = block.to_contiguous(test_context());
  const auto a = gradients(cross_entropy(labels, {1.0, 4}), {block, w}),
             b = gradients(cross_entropy(labels, {1.0, 4}), {copy, w});
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(bitwise_equal(a[i], b[i])) << "operand " << i;
}

TEST_F(LinearCrossEntropy, Fp32LiesWithinTheTable) {
  check_fp32(cross_entropy(labels, {0.3, 4}), {x, w});
}

TEST_F(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  const Tensor large = random_tensor({2, 7, kWidth}, DType::kF64, "x", 500.0);
  check_fp32(cross_entropy(labels, {1.0, 4}), {large, w});
}

TEST_F(LinearCrossEntropy, WithoutTargetsLossAndGradientsAreZero) {
  const std::vector<int32_t> none(14, kIgnoredLabel);
  EXPECT_EQ(evaluate(cross_entropy(none, {}), {x, w})[0].data<double>()[0], 0.0);
  for (const Tensor& g : gradients(cross_entropy(none, {}), {x, w}))
    EXPECT_TRUE(bitwise_equal(g, Tensor::zeros(test_context(), g.shape(), g.dtype())));
}

TEST_F(LinearCrossEntropy, IgnoredRowsGetNoGradient) {
  const Tensor dx = gradients(cross_entropy(labels, {1.0, 4}), {x, w})[0].reshape({14, kWidth});
  for (int64_t r = 0; r < 14; ++r) {
    const double first = dx.data<double>()[r * kWidth];
    EXPECT_EQ(first == 0.0, labels[r] == kIgnoredLabel) << "row " << r;
  }
}

TEST_F(LinearCrossEntropy, ATiedWeightGetsTheGradientsOfBothUses) {
  const std::vector<int32_t> tokens{0, 3, 3, 7, 10, 2, 0};
  const OpFunction tied = [&](Tape& tape, const std::vector<Var>& v) {
    const Var hidden = embedding(tape, tokens, {7}, v[0]);
    return std::vector<Var>{linear_cross_entropy(tape, hidden, v[0], some_labels(7), {0.2, 3}).loss};
  };
  check_gradients(tied, {w}, {.max_elements = 100});

  // The same through a parameter's buffer, whose hook fires once, when both have been added.
  Context& ctx = test_context();
  const Tensor buffer = Tensor::zeros(ctx, w.shape(), w.dtype());
  const Var parameter = Var::make_parameter(w, buffer);
  int fired = 0;
  parameter.set_hook([&](const Var&) { ++fired; });
  Tape tape(ctx);
  tape.backward(tied(tape, {parameter})[0]);
  EXPECT_EQ(fired, 1);
  const Var leaf(w, true);
  Tape again(ctx);
  again.backward(tied(again, {leaf})[0]);
  EXPECT_TRUE(near(buffer, leaf.grad(), kTolerance64.value));
}

TEST_F(LinearCrossEntropy, NeverHoldsTheWholeLogits) {
  constexpr int64_t kRows = 512, kLargeVocab = 1000;
  Context ctx({.num_threads = 2});
  const Tensor hidden = Tensor::zeros(ctx, {kRows, 8}, DType::kF32),
               weight = Tensor::zeros(ctx, {kLargeVocab, 8}, DType::kF32);
  ctx.reset_peak();
  const size_t before = ctx.memory().peak_bytes;
  Tape tape(ctx);
  const auto result = linear_cross_entropy(tape, Var(hidden, true), Var(weight, true),
                                           std::vector<int32_t>(kRows, 1), {1.0, 16});
  tape.backward(result.loss);
  EXPECT_LT(ctx.memory().peak_bytes - before, size_t(kRows * kLargeVocab * 4 / 8));
}

TEST_F(LinearCrossEntropy, ALabelOutsideTheVocabularyIsNamedWithItsPosition) {
  std::vector<int32_t> bad = labels;
  bad[5] = kVocab;
  try {
    evaluate(cross_entropy(bad, {}), {x, w});
    FAIL() << "the label was taken";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("Label 11 at position 5"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace spanwise::testing
