#include "core/ops/pointwise.h"
#include "core/ops/swiglu.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

void check_shapes(const OpFunction& op, int operands) {
  struct Case {
    Shape shape;
    int64_t column_block;
  };
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const Case& c : {Case{{1}, 0},
                          {{7}, 0},
                          {{100, 2048}, 0},
                          {{1001, 33}, 0},
                          {{100, 352}, 352},
                          {{100, 352}, 6},
                          {{3, 64}, 64},
                          {{3000, 6}, 10},
                          {{3, 5, 2816}, 64}}) {
      SCOPED_TRACE(fmt::format("{} {} block {}", name_of(p.dtype), c.shape.str(), c.column_block));
      std::vector<CudaOperand> all;
      for (int i = 0; i < operands; ++i) {
        all.push_back(
            activation_operand(normal64(c.shape, fmt::format("operand {}", i), 2.0), p, c.column_block));
      }
      check_on_cuda(op, all, {p.bounds.output});
    }
  }
}

TEST(CudaPointwise, AddAndMultiplyEqualTheCpu) {
  check_shapes([](Tape& tape, const std::vector<Var>& v) { return std::vector<Var>{add(tape, v[0], v[1])}; },
               2);
  check_shapes(
      [](Tape& tape, const std::vector<Var>& v) { return std::vector<Var>{multiply(tape, v[0], v[1])}; }, 2);
}

TEST(CudaPointwise, EveryActivationEqualsTheCpu) {
  for (const Activation kind :
       {Activation::kSiLU, Activation::kSigmoid, Activation::kReLU, Activation::kEluPlusOne}) {
    SCOPED_TRACE(int(kind));
    check_shapes([kind](Tape& tape,
                        const std::vector<Var>& v) { return std::vector<Var>{activation(tape, v[0], kind)}; },
                 1);
  }
}

TEST(CudaPointwise, ActivationsOfLargeValuesAreFinite) {
  const Tensor x = to_cuda(Tensor::from<double>(test_context(), {4}, {-1e30, -200, 200, 1e30}), DType::kF32);
  for (const Activation kind : {Activation::kSiLU, Activation::kSigmoid}) {
    Tape tape(cuda_context());
    const Var in(x, true), y = activation(tape, in, kind);
    tape.backward({y}, {to_cuda(Tensor::from<double>(test_context(), {4}, {1, 1, 1, 1}), DType::kF32)});
    for (const double v : to_doubles(to_cpu64(y.value()))) EXPECT_TRUE(std::isfinite(v)) << v;
    const bool silu = kind == Activation::kSiLU;
    EXPECT_EQ(to_doubles(to_cpu64(in.grad())),
              (std::vector<double>{0, 0, silu ? 1.0 : 0.0, silu ? 1.0 : 0.0}));
  }
}

TEST(CudaSwiglu, EqualsTheCpu) {
  check_shapes(
      [](Tape& tape, const std::vector<Var>& v) { return std::vector<Var>{swiglu(tape, v[0], v[1])}; }, 2);
}

}  // namespace
}  // namespace spanwise::testing
