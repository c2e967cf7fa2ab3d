#include "core/ops/embedding.h"

#include <algorithm>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

// Repeated ids, so that rows of dW sum; id 2 is never used.
const std::vector<int32_t> kTokens{4, 0, 4, 4, 1, 3, 0, 4, 1, 5};

OpFunction embed(const std::vector<int32_t>& tokens, const Shape& leading) {
  return [=](Tape& tape, const std::vector<Var>& x) {
    return std::vector<Var>{embedding(tape, tokens, leading, x[0])};
  };
}

TEST(Embedding, CopiesTheRowsOfTheWeight) {
  const Tensor w = random_tensor({6, 9}, DType::kF64, "w");
  const Tensor y = evaluate(embed(kTokens, {2, 5}), {w})[0];
  EXPECT_EQ(y.shape(), Shape({2, 5, 9}));
  for (size_t i = 0; i < kTokens.size(); ++i) {
    EXPECT_TRUE(bitwise_equal(y.reshape({10, 9}).row_range(int64_t(i), int64_t(i) + 1),
                              w.row_range(kTokens[i], kTokens[i] + 1)));
  }
}

TEST(Embedding, GradientsEqualFiniteDifferences) {
  // 150 columns are three blocks of columns, so that threads share the work.
  const GradientCheck all{.max_elements = 900};
  check_gradients(embed(kTokens, {2, 5}), {random_tensor({6, 150}, DType::kF64, "w")}, all);
  check_gradients(embed({3}, {1, 1}), {random_tensor({6, 9}, DType::kF64, "w")}, all);
}

TEST(Embedding, Fp32LiesWithinTheTable) {
  check_fp32(embed(kTokens, {2, 5}), {random_tensor({6, 150}, DType::kF64, "w")});
}

TEST(Embedding, AddsToAParametersBuffer) {
  Context& ctx = test_context();
  const Tensor w = random_tensor({6, 9}, DType::kF64, "w"), buffer = Tensor::empty(ctx, w.shape(), w.dtype());
  buffer.fill(0.5);
  Tape tape(ctx);
  const Var y = embedding(tape, kTokens, {10}, Var::make_parameter(w, buffer));
  const Tensor ones = Tensor::empty(ctx, y.shape(), w.dtype());
  ones.fill(1.0);
  tape.backward({y}, {ones});
  for (int32_t id = 0; id < 6; ++id) {
    const double uses = double(std::count(kTokens.begin(), kTokens.end(), id));
    for (int c = 0; c < 9; ++c) EXPECT_EQ(buffer.data<double>()[id * 9 + c], uses + 0.5);
  }
}

TEST(Embedding, AnIdOutsideTheVocabularyIsNamedWithItsPosition) {
  const Tensor w = random_tensor({6, 9}, DType::kF64, "w");
  for (int32_t bad : {-1, 6}) {
    try {
      evaluate(embed({0, 1, bad}, {3}), {w});
      FAIL() << "id " << bad << " was taken";
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(fmt::format("id {} at position 2", bad)), std::string::npos)
          << error.what();
    }
  }
}

TEST(Embedding, PartsOfTheVocabularyAddUpToTheWhole) {
  const Tensor w = random_tensor({6, 9}, DType::kF64, "w");
  const Tensor whole = evaluate(embed(kTokens, {10}), {w})[0];
  const Tensor dw = gradients(embed(kTokens, {10}), {w})[0];
  std::vector<double> sum(90, 0.0);
  for (const auto& [begin, end] : {std::pair{0, 4}, std::pair{4, 6}}) {
    const OpFunction op = [begin = begin](Tape& tape, const std::vector<Var>& x) {
      return std::vector<Var>{embedding(tape, kTokens, {10}, x[0], {.begin = begin, .whole = 6})};
    };
    const std::vector<double> y = to_doubles(evaluate(op, {w.row_range(begin, end)})[0]);
    for (size_t i = 0; i < y.size(); ++i) sum[i] += y[i];
    EXPECT_TRUE(bitwise_equal(gradients(op, {w.row_range(begin, end)})[0], dw.row_range(begin, end)));
  }
  EXPECT_EQ(sum, to_doubles(whole));
}

}  // namespace
}  // namespace spanwise::testing
