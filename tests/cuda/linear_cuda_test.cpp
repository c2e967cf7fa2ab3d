#include "core/ops/linear.h"

#include "tests/testing/cuda_testing.h"

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
