// Ops that move elements: views, blocks of collectives, and the algebra of span summaries.
#include "core/ops/block_copy.h"
#include "core/ops/span_fold.h"
#include "core/ops/views.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

TEST(CudaViews, SplitColumnsGivesItsGradientBack) {
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{64, 128, 8}, {3, 5, 1}, {256, 64, 6}, std::vector<int64_t>(20, 8)}) {
    // The last block is not used: its gradient is zero.
    const OpFunction op = [&](Tape& tape, const std::vector<Var>& v) {
      std::vector<Var> blocks = split_columns(tape, v[0], sizes);
      blocks.pop_back();
      return blocks;
    };
    int64_t columns = 0;
    for (const int64_t size : sizes) columns += size;
    for (const CudaPrecision& p : kCudaPrecisions) {
      SCOPED_TRACE(fmt::format("{} columns {}", name_of(p.dtype), columns));
      check_on_cuda(op, {activation_operand(normal64({2, 101, columns}, "x"), p)},
                    std::vector<double>(sizes.size() - 1, 1e-12));
    }
  }
}

TEST(CudaBlockCopy, MovesAndAddsBlocksLikeTheCpu) {
  struct Case {
    int64_t source, target;
    std::vector<Block> blocks;
  };
  const std::vector<Case> cases{
      {4096, 8192, {{16, 64, 0, 256, 8, 512}, {16, 64, 64, 256, 128, 512}}},
      {1000, 1000, {{7, 13, 5, 20, 3, 31}, {1, 100, 300, 0, 500, 0}, {0, 5, 0, 0, 0, 0}}},
  };
  for (const Case& c : cases) {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      const Tensor from = to_cuda(normal64({c.source}, "source"), dtype);
      const Tensor to = to_cuda(normal64({c.target}, "target"), dtype);
      const Tensor from64 = to_cpu64(from), to64 = to_cpu64(to);
      copy_blocks(from, to, c.blocks);
      copy_blocks(from64, to64, c.blocks);
      EXPECT_EQ(rms_ratio(to, to64), 0.0);
      add_blocks(from, to, c.blocks);
      add_blocks(from64, to64, c.blocks);
      EXPECT_LE(rms_ratio(to, to64), 0.004);
    }
  }
}

TEST(CudaSpanFold, TransitionsApplyAndComposeLikeTheCpu) {
  for (const auto& [heads, keys, values] : {std::array<int64_t, 3>{1, 3, 5}, {4, 64, 128}, {3, 100, 70}}) {
    SCOPED_TRACE(fmt::format("{} {} {}", heads, keys, values));
    const Shape state{heads, keys, values}, dense{heads, keys, keys};
    const auto run = [&](Context& ctx, const auto& place) {
      const Tensor s = place(normal64(state, "s")), b = place(normal64(state, "b"));
      const SpanTransition m{{}, place(normal64(dense, "m"))}, n{{}, place(normal64(dense, "n"))};
      const SpanTransition decay{place(normal64({heads}, "decay", 0.3, -1.0)), {}};
      return std::vector<Tensor>{
          apply_transition(ctx, m, s, b),       apply_transition_transposed(ctx, m, s, b),
          apply_transition(ctx, decay, s, b),   apply_transition(ctx, {}, s, b),
          compose_transitions(ctx, m, n).dense, compose_transitions(ctx, decay, decay).log_decay};
    };
    const auto expected = run(test_context(), [](const Tensor& t) { return t; });
    const auto actual = run(cuda_context(), [](const Tensor& t) { return to_cuda(t, DType::kF32); });
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_LE(rms_ratio(actual[i], expected[i]), 1e-6) << i;
  }
}

}  // namespace
}  // namespace spanwise::testing
