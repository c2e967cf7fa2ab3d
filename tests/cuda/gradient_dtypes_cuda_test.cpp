// Gradients of BF16 activations are BF16, those of parameters F32, through a chain of ops as a block has it.
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"
#include "core/ops/views.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

TEST(CudaGradients, ActivationsKeepTheirDtypeAndParametersGetF32) {
  // Gradients inside the chain are freed as backward goes; an op that gets one of another dtype than its own
  // throws.
  Tape tape(cuda_context());
  const auto leaf = [](const Shape& shape, const char* name, DType dtype) {
    return Var(to_cuda(normal64(shape, name), dtype), true);
  };
  const Var table = leaf({11, 64}, "table", DType::kBF16), norm = leaf({64}, "norm", DType::kF32);
  const Var up = leaf({96, 64}, "up", DType::kBF16), down = leaf({64, 48}, "down", DType::kBF16);
  const Var other = leaf({1, 5, 48}, "other", DType::kBF16);

  const Var x = rms_norm(tape, embedding(tape, {1, 5, 1, 7, 10}, {1, 5}, table), norm, 1e-6);
  const std::vector<Var> halves = split_columns(tape, linear(tape, x, up), {48, 48});
  const Var out = linear(tape, swiglu(tape, halves[0], halves[1]), down), direct = linear(tape, other, down);
  const Tensor seed = to_cuda(normal64(out.shape(), "seed"), DType::kBF16);
  tape.backward({out, direct}, {seed, seed});

  ASSERT_TRUE(other.grad().defined());
  EXPECT_EQ(other.grad().dtype(), DType::kBF16);
  for (const Var& parameter : {table, norm, up, down}) {
    ASSERT_TRUE(parameter.grad().defined()) << parameter.shape().str();
    EXPECT_EQ(parameter.grad().dtype(), DType::kF32) << parameter.shape().str();
  }
}

}  // namespace
}  // namespace spanwise::testing
