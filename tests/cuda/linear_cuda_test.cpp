#include "core/ops/linear.h"

#include "core/ops/cuda/common/gemm.h"
#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

const OpFunction kLinear = [](Tape& tape, const std::vector<Var>& x) {
  return std::vector<Var>{linear(tape, x[0], x[1], x[2])};
};

struct Sizes {
  int64_t rows, inputs, outputs;
};

void check_linear(const Sizes& s, DType dtype, bool with_bias, int64_t column_block = 0) {
  SCOPED_TRACE(fmt::format("{} rows, {} to {}, {}, bias {}, column block {}", s.rows, s.inputs, s.outputs,
                           name_of(dtype), with_bias, column_block));
  const CudaBounds bounds = dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
  const Tensor x = random_tensor({s.rows, s.inputs}, DType::kF64, "x"),
               w = random_tensor({s.outputs, s.inputs}, DType::kF64, "w", 0.1),
               b = with_bias ? random_tensor({s.outputs}, DType::kF64, "b") : Tensor();
  check_on_cuda(
      kLinear,
      {{x, dtype, bounds.gradient, column_block}, {w, dtype, bounds.gradient}, {b, DType::kF32, 1e-5}},
      {bounds.output});
}

TEST(LinearCuda, EqualsTheCpuForEverySizeAndAlignment) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Sizes& s : {Sizes{1, 64, 64},
                           {63, 128, 96},
                           {100, 100, 36},
                           {257, 13, 5},
                           {7, 1, 1},
                           {1024, 256, 16},
                           {2000, 130, 202},
                           {5, 1001, 999}}) {
      check_linear(s, dtype, false);
      check_linear(s, dtype, true);
    }
  }
}

TEST(LinearCuda, ReadsColumnBlocksOfAnyAlignment) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    check_linear({100, 64, 48}, dtype, true, 64);
    check_linear({100, 64, 48}, dtype, false, 6);
    check_linear({33, 20, 7}, dtype, false, 3);
  }
}

TEST(LinearCuda, WeightGradientsAddToAnF32Buffer) {
  Context& ctx = cuda_context();
  const Tensor x = to_cuda(random_tensor({300, 72}, DType::kF64, "x"), DType::kBF16),
               w = to_cuda(random_tensor({40, 72}, DType::kF64, "w"), DType::kBF16),
               dy = to_cuda(random_tensor({300, 40}, DType::kF64, "dy"), DType::kBF16);
  const Tensor buffer = Tensor::empty(ctx, {40, 72}, DType::kF32);
  buffer.fill(100.0);
  const Var weight = Var::make_parameter(w, buffer);
  Tape tape(ctx);
  const Var y = linear(tape, Var(x), weight);
  tape.backward({y}, {dy});

  const Tensor expected = Tensor::empty(test_context(), {40, 72}, DType::kF64);
  expected.fill(100.0);
  linear_bwd_weight(test_context(), to_cpu64(dy), to_cpu64(x), {expected, true});
  // Sums of 300 products stay in fp32 from the first to the last: bf16 anywhere would be off by 1e-3.
  EXPECT_LE(rms_ratio(buffer, expected), 1e-6);
}

// Measuring a product that adds to a gradient takes memory as large as what it adds to at once. Integers and
// quarters of them: sums are exact in any order.
TEST(LinearCuda, LargeWeightGradientsAreChosenForWithinABound) {
  Context& ctx = cuda_context();
  const int64_t tokens = 128, outputs = 100'000, inputs = 1024;
  ASSERT_GT(outputs * inputs * 4, 3 * cuda::kGemmTrialBytes / 2);
  std::vector<double> x, dy, column_sums(inputs);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < inputs; ++i) x.push_back(double((t * 7 + i * 3) % 11 - 5));
    for (int64_t i = 0; i < inputs; ++i) column_sums[size_t(i)] += x[size_t(t * inputs + i)];
    for (int64_t o = 0; o < outputs; ++o) dy.push_back(double(o % 7 - 3) / 4);
  }
  const Tensor gpu_x = to_cuda(Tensor::from(test_context(), {tokens, inputs}, x), DType::kBF16),
               gpu_dy = to_cuda(Tensor::from(test_context(), {tokens, outputs}, dy), DType::kBF16),
               dweight = Tensor::empty(ctx, {outputs, inputs}, DType::kF32);
  dweight.fill(1.0);
  linear_fwd(ctx, to_cuda(normal64({1, 8}, "x"), DType::kBF16), to_cuda(normal64({8, 8}, "w"), DType::kBF16),
             Tensor());  // the workspace is there
  const int64_t before = int64_t(ctx.memory().live_bytes);
  ctx.reset_peak();
  linear_bwd_weight(ctx, gpu_dy, gpu_x, {dweight, true});
  EXPECT_LE(int64_t(ctx.memory().peak_bytes) - before,
            linear_trial_bytes(Device::kCUDA, tokens, outputs, inputs) + 4096);
  EXPECT_LE(linear_trial_bytes(Device::kCUDA, tokens, outputs, inputs), cuda::kGemmTrialBytes);

  const std::vector<float> actual = dweight.to_vector<float>();
  int64_t wrong = 0;
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < inputs; ++i)
      wrong += actual[size_t(o * inputs + i)] != float(1 + double(o % 7 - 3) / 4 * column_sums[size_t(i)]);
  }
  EXPECT_EQ(wrong, 0);
}

// More blocks of rows than a grid's second axis takes. Sums of ones are exact.
TEST(LinearCuda, BiasGradientsOfManyRows) {
  Context& ctx = cuda_context();
  const int64_t rows = 65536 * 256 + 300;
  const Tensor dy = Tensor::empty(ctx, {rows, 2}, DType::kBF16), dbias = Tensor::empty(ctx, {2}, DType::kF32);
  dy.fill(1.0);
  cuda::linear_bwd_bias(ctx, dy, dbias);
  EXPECT_EQ(dbias.to_vector<float>(), (std::vector<float>{float(rows), float(rows)}));
}

TEST(LinearCuda, InputGradientsOfTwoLayersAddUp) {
  const OpFunction both = [](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{linear(tape, v[0], v[1]), linear(tape, v[0], v[2])};
  };
  check_on_cuda(both,
                {{random_tensor({65, 32}, DType::kF64, "x"), DType::kBF16, 0.008},
                 {random_tensor({24, 32}, DType::kF64, "w1"), DType::kBF16, 0.008},
                 {random_tensor({9, 32}, DType::kF64, "w2"), DType::kBF16, 0.008}},
                {0.005, 0.005});
}

TEST(LinearCuda, LongSumsOfWeightGradientsAreTheSameInEveryRun) {
  // Few outputs and many rows: where cuBLASLt would split the sum.
  check_linear({40000, 64, 16}, DType::kBF16, true);
  check_linear({20000, 128, 64}, DType::kF32, false);
}

}  // namespace
}  // namespace spanwise::testing
