#include "core/ops/span_fold.h"

#include "core/ops/block_copy.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

// Plain fp32 sums of up to 256 products.
constexpr double kBound = 1e-6;

struct Sizes {
  int64_t heads, key_dim, value_dim;
};
// The last: more heads of all rows than a grid's other axes take blocks.
constexpr Sizes kSizes[] = {{1, 1, 1},    {3, 5, 7},   {16, 128, 128}, {4, 256, 256},
                            {2, 64, 100}, {5, 33, 65}, {70000, 3, 5}};

Tensor random(const Shape& shape, const char* name, double scale = 1) {
  return to_cuda(random_tensor(shape, DType::kF64, name, scale), DType::kF32);
}

/// fn on the GPU in fp32 and on the host in fp64.
template <class F>
void expect_near(F&& fn, const std::vector<Tensor>& operands) {
  std::vector<Tensor> exact;
  for (const Tensor& t : operands) exact.push_back(to_cpu64(t));
  const Tensor actual = fn(cuda_context(), operands), again = fn(cuda_context(), operands);
  EXPECT_LE(rms_ratio(actual, fn(test_context(), exact)), kBound);
  EXPECT_EQ(actual.to_vector<float>(), again.to_vector<float>());
}

TEST(CudaSpanFold, AppliesAndComposesTransitions) {
  for (const auto& [heads, key_dim, value_dim] : kSizes) {
    SCOPED_TRACE(fmt::format("{} heads of {} x {}", heads, key_dim, value_dim));
    const Tensor s = random({heads, key_dim, value_dim}, "s"), b = random({heads, key_dim, value_dim}, "b");
    using Operands = std::vector<Tensor>;
    for (const TransitionKind kind :
         {TransitionKind::kScalar, TransitionKind::kDiagonal, TransitionKind::kDense}) {
      SCOPED_TRACE(fmt::format("kind {}", int(kind)));
      const Shape shape = transition_shape(kind, {heads}, key_dim);
      const Tensor m = random(shape, "m", 0.2), n = random(shape, "n", 0.2);
      expect_near(
          [&](Context& c, const Operands& x) {
            return apply_transition(c, {kind, x[0]}, x[1], x[2]);
          },
          {m, s, b});
      expect_near(
          [&](Context& c, const Operands& x) {
            return apply_transition_transposed(c, {kind, x[0]}, x[1], x[2]);
          },
          {m, s, b});
      expect_near(
          [&](Context& c, const Operands& x) {
            return compose_transitions(c, {kind, x[0]}, {kind, x[1]}).values;
          },
          {m, n});
    }
    expect_near([](Context& c, const Operands& x) { return apply_transition(c, {}, x[0], x[1]); }, {s, b});
  }
}

TEST(CudaSpanFold, TakesTime) {
  const Tensor s = random({16, 128, 128}, "s"), m = random({16, 128, 128}, "m", 0.1);
  const Tensor out = Tensor::empty(cuda_context(), s.shape(), DType::kF32);
  for (const HeadOperand op : {HeadOperand::kPlain, HeadOperand::kTransposed}) {
    fmt::print("multiply_heads{}, 16 heads of 128 x 128: {:.4f} ms\n",
               op == HeadOperand::kPlain ? "" : " transposed",
               median_ms([&] {
                 for (int i = 0; i < 10; ++i) cuda::multiply_heads(cuda_context(), m, op, s, s, out);
               }) / 10);
  }
}

/// Blocks of every alignment, many of them, long and short.
std::vector<std::vector<MovedBlock>> block_lists() {
  std::vector<MovedBlock> many;
  for (int64_t i = 0; i < 150; ++i) many.push_back({2, 3, 60 * i, 7, 40 * i, 5});
  return {{{.rows = 1, .width = 100003, .from = 0, .from_stride = 0, .to = 0, .to_stride = 0}},
          {{.rows = 500, .width = 64, .from = 64, .from_stride = 192, .to = 0, .to_stride = 64}},
          {{.rows = 77, .width = 5, .from = 3, .from_stride = 11, .to = 1, .to_stride = 9},
           {.rows = 1, .width = 1, .from = 99999, .from_stride = 1, .to = 50000, .to_stride = 1}},
          {{.rows = 0, .width = 5, .from = 0, .from_stride = 1, .to = 0, .to_stride = 1}},
          {},
          many};
}

TEST(CudaBlocks, AreCopiedAndAddedAsOnTheHost) {
  const Shape shape{100003};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const std::vector<MovedBlock>& blocks : block_lists()) {
      const Tensor source = to_cuda(random_tensor(shape, DType::kF64, "source"), dtype),
                   target = to_cuda(random_tensor(shape, DType::kF64, "target"), dtype);
      const Tensor exact_source = to_cpu64(source), exact = to_cpu64(target);
      copy_blocks(cuda_context(), source, target, blocks);
      copy_blocks(test_context(), exact_source, exact, blocks);
      EXPECT_EQ(rms_ratio(target, exact), 0) << name_of(dtype);
      add_blocks(cuda_context(), source, target, blocks);
      add_blocks(test_context(), exact_source, exact, blocks);
      EXPECT_LE(rms_ratio(target, exact), dtype == DType::kF32 ? 1e-7 : 0.003) << name_of(dtype);
    }
  }
}

TEST(CudaBlocks, AddToTheSameElementsOneAfterTheOther) {
  const Tensor source = to_cuda(random_tensor({8, 4096}, DType::kF64, "source"), DType::kF32),
               target = Tensor::zeros(cuda_context(), {4096}, DType::kF32);
  std::vector<MovedBlock> blocks;
  for (int64_t i = 0; i < 8; ++i) blocks.push_back({1, 4096, 4096 * i, 4096, 0, 4096});
  add_blocks(cuda_context(), source, target, blocks);
  const Tensor exact = Tensor::zeros(test_context(), {4096}, DType::kF64);
  add_blocks(test_context(), to_cpu64(source), exact, blocks);
  EXPECT_LE(rms_ratio(target, exact), 1e-6);

  // Terms of BF16 add up in F32.
  const Tensor terms = to_cuda(random_tensor({8, 4096}, DType::kF64, "source"), DType::kBF16);
  target.set_zero();
  exact.set_zero();
  add_blocks(cuda_context(), terms, target, blocks);
  add_blocks(test_context(), to_cpu64(terms), exact, blocks);
  EXPECT_LE(rms_ratio(target, exact), 1e-6);
}

}  // namespace
}  // namespace spanwise::testing
