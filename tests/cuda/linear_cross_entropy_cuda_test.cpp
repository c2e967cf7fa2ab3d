#include "core/ops/linear_cross_entropy.h"

#include <cmath>

#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

struct Case {
  int64_t rows, vocab, width, chunk_rows = 0, column_block = 0;
};

// Every third label is ignored; the others lie anywhere in [0, whole).
std::vector<int32_t> some_labels(int64_t rows, int64_t whole) {
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < rows; ++i)
    labels.push_back(i % 3 == 1 ? kIgnoredLabel : int32_t((i * 7919 + whole - 1) % whole));
  return labels;
}

OpFunction cross_entropy(const std::vector<int32_t>& labels, const CrossEntropyOptions& options) {
  return [=](Tape& tape, const std::vector<Var>& x) {
    return std::vector<Var>{linear_cross_entropy(tape, x[0], x[1], labels, options).loss};
  };
}

void check_cross_entropy(const Case& c, DType dtype, const std::vector<int32_t>& labels,
                         CrossEntropyOptions options) {
  SCOPED_TRACE(fmt::format("{} rows, vocabulary {}, width {}, chunks of {}, {}", c.rows, c.vocab, c.width,
                           c.chunk_rows, name_of(dtype)));
  const CudaBounds bounds = dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
  const Tensor x = random_tensor({c.rows, c.width}, DType::kF64, "x"),
               w = random_tensor({c.vocab, c.width}, DType::kF64, "w", 1 / std::sqrt(double(c.width)));
  options.chunk_rows = c.chunk_rows;
  check_on_cuda(cross_entropy(labels, options),
                {{x, dtype, bounds.gradient, c.column_block}, {w, dtype, bounds.gradient}}, {bounds.output});
}

TEST(LinearCrossEntropyCuda, EqualsTheCpuForEverySize) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Case& c : {Case{1, 64, 32},
                          {63, 11, 6},
                          {100, 1000, 64, 32},
                          {100, 1001, 60, 33, 12},
                          {70, 32000, 32},
                          {40, 40003, 24},
                          {2000, 300, 16, 512}}) {
      check_cross_entropy(c, dtype, some_labels(c.rows, c.vocab), {.loss_scale = 1.0 / double(c.rows)});
    }
  }
}

TEST(LinearCrossEntropyCuda, APartOfTheVocabularyGivesItsTerms) {
  // The other part adds nothing here, on either device alike: what is tested is this part's own terms.
  DimPart part{.begin = 50, .whole = 700, .sum = [](const Tensor&) {}, .max = [](const Tensor&) {}};
  for (const DType dtype : {DType::kBF16, DType::kF32})
    check_cross_entropy({100, 601, 48, 32}, dtype, some_labels(100, 700), {.loss_scale = 0.01, .part = part});
}

TEST(LinearCrossEntropyCuda, TheReductionsOverPartsAreUsed) {
  // Twice the sum of exponentials is ln 2 more loss for every target.
  Context& ctx = cuda_context();
  const Tensor x = to_cuda(random_tensor({30, 16}, DType::kF64, "x"), DType::kF32),
               w = to_cuda(random_tensor({90, 16}, DType::kF64, "w"), DType::kF32);
  const auto double_sums = [&](const Tensor& sums) {
    std::vector<float> values = sums.to_vector<float>();
    for (size_t i = 0; i < 30; ++i) values[i] *= 2;
    sums.copy_from_host(values.data(), sums.bytes());
  };
  const auto loss = [&](const DimPart& part) {
    Tape tape(ctx, Tape::Mode::kInference);
    const auto result = linear_cross_entropy(tape, Var(x), Var(w), some_labels(30, 90), {.part = part});
    return double(result.loss.value().to_vector<float>()[0]);
  };
  const double alone = loss({});
  EXPECT_NEAR(loss({.whole = 90, .sum = double_sums, .max = [](const Tensor&) {}}),
              alone + 20 * std::log(2.0), 1e-4 * alone);
}

TEST(LinearCrossEntropyCuda, WithoutTargetsLossAndGradientsAreZero) {
  Context& ctx = cuda_context();
  const Var x(to_cuda(random_tensor({9, 16}, DType::kF64, "x"), DType::kBF16), true),
      w(to_cuda(random_tensor({20, 16}, DType::kF64, "w"), DType::kBF16), true);
  Tape tape(ctx);
  const Var loss = linear_cross_entropy(tape, x, w, std::vector<int32_t>(9, kIgnoredLabel)).loss;
  tape.backward(loss);
  for (const Tensor& t : {loss.value(), x.grad(), w.grad()}) {
    for (const double v : to_doubles(to_cpu64(t))) EXPECT_EQ(v, 0.0);
  }
}

TEST(LinearCrossEntropyCuda, LargeLogitsDoNotOverflow) {
  const Tensor x = random_tensor({40, 16}, DType::kF64, "x", 500.0),
               w = random_tensor({50, 16}, DType::kF64, "w");
  check_on_cuda(cross_entropy(some_labels(40, 50), {.loss_scale = 0.1}),
                {{x, DType::kF32, 2e-4}, {w, DType::kF32, 2e-4}}, {2e-5});
}

TEST(LinearCrossEntropyCuda, ForwardAndBackwardDoNotWaitForTheGpu) {
  Context& ctx = cuda_context();
  const Var x(to_cuda(random_tensor({64, 16}, DType::kF64, "x"), DType::kBF16), true);
  const Tensor gradient = Tensor::zeros(ctx, {128, 16}, DType::kF32);
  const Var w =
      Var::make_parameter(to_cuda(random_tensor({128, 16}, DType::kF64, "w"), DType::kBF16), gradient);
  const int64_t before = ctx.memory().host_waits;
  Tape tape(ctx);
  tape.backward(linear_cross_entropy(tape, x, w, some_labels(64, 128)).loss);
  EXPECT_EQ(ctx.memory().host_waits, before);
}

}  // namespace
}  // namespace spanwise::testing
