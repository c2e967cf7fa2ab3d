// Dry runs of ops beside runs on a GPU: what the first say that ops take is what they take.

#include "core/ops/embedding.h"
#include "core/ops/gated_delta.h"
#include "core/ops/gated_rms_norm.h"
#include "core/ops/gates.h"
#include "core/ops/l2_norm.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/short_conv.h"
#include "core/ops/softmax_attention.h"
#include "core/ops/swiglu.h"
#include "tests/testing/cuda_testing.h"
#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

constexpr DType kBF16 = DType::kBF16, kF32 = DType::kF32;

struct OperandOf {
  Shape shape;
  DType dtype;
};

struct Cost {
  int64_t forward_peak, forward_live, backward_peak, backward_live;  ///< above what lived before
  Work work;
};

/// Of a first run: lists of chunks are uploaded in it, algorithms of products chosen. Undefined shapes are
/// undefined operands.
Cost cost_of(Context& ctx, const OpFunction& op, const std::vector<OperandOf>& operands) {
  std::vector<Var> leaves;
  for (const OperandOf& o : operands)
    leaves.push_back(o.shape.num_dims() ? Var(Tensor::zeros(ctx, o.shape, o.dtype), true) : Var());
  const int64_t before = int64_t(ctx.memory().live_bytes);
  Cost cost{};
  ctx.reset_work();
  ctx.reset_peak();
  Tape tape(ctx);
  std::vector<Var> outputs = op(tape, leaves);
  cost.forward_peak = int64_t(ctx.memory().peak_bytes) - before;
  cost.forward_live = int64_t(ctx.memory().live_bytes) - before;
  std::erase_if(outputs, [](const Var& v) { return !v.defined() || !v.requires_grad(); });
  std::vector<Tensor> ones;
  for (const Var& output : outputs) {
    ones.push_back(Tensor::empty(ctx, output.shape(), output.dtype()));
    ones.back().fill(1.0);
  }
  ctx.reset_peak();
  tape.backward(outputs, ones);
  cost.backward_peak = int64_t(ctx.memory().peak_bytes) - before;
  cost.backward_live = int64_t(ctx.memory().live_bytes) - before;
  cost.work = ctx.work();
  return cost;
}

/// `spare`: bytes that a dry run may take more: where partials follow the number of blocks that a GPU runs at
/// once, it takes the most. `lists`: of lists that kernels read, which may be missing in it.
void expect_dry_equals_gpu(const OpFunction& op, const std::vector<OperandOf>& operands, int64_t spare = 0,
                           int64_t lists = 16 << 10) {
  Context gpu({.device = Device::kCUDA}), dry({.device = Device::kCUDA, .dry = true});
  const Cost real = cost_of(gpu, op, operands), planned = cost_of(dry, op, operands);
  const auto expect = [&](const char* what, int64_t of_dry, int64_t of_gpu) {
    EXPECT_GE(of_dry, of_gpu - lists) << what;
    EXPECT_LE(of_dry, of_gpu + spare + lists) << what;
  };
  expect("forward's peak", planned.forward_peak, real.forward_peak);
  expect("live after forward", planned.forward_live, real.forward_live);
  expect("backward's peak", planned.backward_peak, real.backward_peak);
  expect("live after backward", planned.backward_live, real.backward_live);
  EXPECT_EQ(planned.work.flops, real.work.flops);
  EXPECT_EQ(planned.work.recomputed_flops, real.work.recomputed_flops);
  EXPECT_EQ(planned.work.bytes, real.work.bytes);
}

struct LinearCase {
  std::string name;
  LinearStateShape shape;
  std::vector<int64_t> starts = {};  ///< documents'
};

std::vector<LinearCase> linear_cases() {
  return {
      {"shared key heads, K < V", {2, 300, 2, 6, 64, 256, kBF16, true}},
      {"K > V, no decay", {1, 1000, 2, 2, 256, 64, kBF16, false}},
      {"documents", {2, 1000, 4, 4, 128, 128, kBF16, true}, {3, 400, 1100, 1999}},
      {"F32", {2, 500, 2, 4, 96, 80, kF32, true}},
      {"F32, no decay", {1, 500, 2, 2, 64, 64, kF32, false}},
      {"many heads", {8, 4096, 16, 16, 128, 128, kBF16, true}},
      {"one document ends inside rows", {8, 4096, 16, 16, 128, 128, kBF16, true}, {1000}},
      {"one long row: pieces", {1, 32768, 4, 4, 128, 128, kBF16, true}},
      {"one long row without decays: pieces", {1, 32768, 2, 4, 128, 128, kBF16, false}},
  };
}

SequenceLayout layout_of(const LinearCase& c) {
  if (c.starts.empty()) return SequenceLayout(c.shape.rows, c.shape.length);
  return SequenceLayout(c.shape.rows, c.shape.length, c.starts);
}

/// q, k, v, log decay or undefined, beta.
std::vector<OperandOf> operands_of(const LinearStateShape& s) {
  const Shape keys{s.rows, s.length, s.key_heads, s.key_dim},
      values{s.rows, s.length, s.value_heads, s.value_dim}, gates{s.rows, s.length, s.value_heads};
  return {{keys, s.dtype},
          {keys, s.dtype},
          {values, s.dtype},
          {s.token_decay ? gates : Shape(), kF32},
          {gates, kF32}};
}

TEST(OpMemoryCuda, GatedDeltaTakesWhatItsDryRunSays) {
  for (const LinearCase& c : linear_cases()) {
    SCOPED_TRACE(c.name);
    const SequenceLayout layout = layout_of(c);
    for (const bool recompute : {false, true}) {
      expect_dry_equals_gpu(
          [&](Tape& tape, const std::vector<Var>& x) {
            return std::vector<Var>{
                gated_delta(tape, operand_list(x), layout, {.scale = 1.0, .recompute = recompute}).out};
          },
          operands_of(c.shape));
    }
  }
}

TEST(OpMemoryCuda, ScalarDecayTakesWhatItsDryRunSays) {
  for (const LinearCase& c : linear_cases()) {
    SCOPED_TRACE(c.name);
    const SequenceLayout layout = layout_of(c);
    std::vector<OperandOf> operands = operands_of(c.shape);
    operands.pop_back();
    // Up to five scans upload their chunks, of 64 tokens and 32 bytes each, and their runs; a model's layers
    // share them.
    const int64_t lists = (16 << 10) + 160 * (c.shape.tokens() / 64 + c.shape.rows);
    expect_dry_equals_gpu(
        [&](Tape& tape, const std::vector<Var>& x) {
          return std::vector<Var>{scalar_decay(tape, operand_list(x), layout, {.scale = 1.0}).out};
        },
        operands, 0, lists);
  }
}

TEST(OpMemoryCuda, AttentionTakesWhatItsDryRunSays) {
  const std::vector<AttentionShape> shapes = {
      {2, 300, 300, 4, 2, 64, kBF16, true},
      {1, 200, 200, 2, 2, 96, kF32, true},
      {1, 1000, 1000, 4, 4, 128, kBF16, true},
      {8, 4096, 4096, 16, 16, 128, kBF16, true},  // one kernel
  };
  for (const AttentionShape& s : shapes) {
    SCOPED_TRACE(fmt::format("{} x {}, {} heads", s.batch, s.num_queries, s.heads));
    const KeyRanges ranges = causal_key_ranges(SequenceLayout(s.batch, s.num_queries), 0);
    const Shape queries{s.batch, s.num_queries, s.heads, s.head_dim},
        keys{s.batch, s.num_keys, s.kv_heads, s.head_dim};
    expect_dry_equals_gpu(
        [&](Tape& tape, const std::vector<Var>& x) {
          return std::vector<Var>{softmax_attention(tape, x[0], x[1], x[2], ranges, 0.1)};
        },
        {{queries, s.dtype}, {keys, s.dtype}, {keys, s.dtype}});
  }
}

TEST(OpMemoryCuda, ProductsTakeWhatTheirDryRunsSay) {
  for (const DType dtype : {kBF16, kF32}) {
    expect_dry_equals_gpu(
        [](Tape& tape, const std::vector<Var>& x) {
          return std::vector<Var>{linear(tape, x[0], x[1], x[2]), linear(tape, x[0], x[1])};
        },
        {{{4096, 2048}, dtype}, {{2048, 2048}, dtype}, {{2048}, kF32}});
    const std::vector<int32_t> labels(5000, 3);
    expect_dry_equals_gpu(
        [&](Tape& tape, const std::vector<Var>& x) {
          return std::vector<Var>{
              linear_cross_entropy(tape, x[0], x[1], labels, {.loss_scale = 1, .chunk_rows = 2048}).loss};
        },
        {{{5000, 1024}, dtype}, {{10007, 1024}, dtype}});
  }
}

TEST(OpMemoryCuda, EmbeddingTakesWhatItsDryRunSays) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < 4096; ++i) tokens.push_back(i % 7 == 0 ? 1 : i * 31 % 1000);
  expect_dry_equals_gpu(
      [&](Tape& tape, const std::vector<Var>& x) {
        return std::vector<Var>{embedding(tape, tokens, {4, 1024}, x[0])};
      },
      {{{1000, 512}, kBF16}});
}

TEST(OpMemoryCuda, GatesTakeWhatTheirDryRunsSay) {
  const Shape heads{2, 1000, 6}, channels{2, 1000, 6, 64};
  expect_dry_equals_gpu(
      [](Tape& tape, const std::vector<Var>& x) {
        return std::vector<Var>{decay_gate(tape, x[0], x[1], x[2])};
      },
      {{heads, kBF16}, {{6}, kF32}, {{6}, kF32}});
  expect_dry_equals_gpu(
      [](Tape& tape, const std::vector<Var>& x) {
        const Mamba2Gates gates = mamba2_gates(tape, x[0], x[1], x[2], x[3]);
        return std::vector<Var>{gates.v, gates.g, head_skip(tape, gates.v, x[0], x[4])};
      },
      {{channels, kBF16}, {heads, kBF16}, {{6}, kF32}, {{6}, kF32}, {{6}, kF32}});
}

// Their partials follow the number of blocks at once.
TEST(OpMemoryCuda, NormsAndConvolutionsTakeAtMostWhatTheirDryRunsSay) {
  constexpr int64_t kSpare = 64 << 20;
  for (const int64_t width : {64, 1024, 2048}) {
    expect_dry_equals_gpu(
        [](Tape& tape, const std::vector<Var>& x) {
          const Var y = rms_norm(tape, x[0], x[1], 1e-6);
          return std::vector<Var>{gated_rms_norm(tape, y, x[0], x[1], 1e-6)};
        },
        {{{4096, width}, kBF16}, {{width}, kF32}}, kSpare);
  }
  const SequenceLayout layout(2, 2048, {0, 500, 2048});
  for (const int64_t head : {0, 128}) {
    expect_dry_equals_gpu(
        [&](Tape& tape, const std::vector<Var>& x) {
          return std::vector<Var>{
              short_conv(tape, x[0], x[1], x[2], layout, Activation::kSiLU, Var(), {.dim = head}).out};
        },
        {{{2, 2048, 1024}, kBF16}, {{1024, 1, 4}, kF32}, {{1024}, kF32}}, kSpare);
  }
}

TEST(OpMemoryCuda, TheRestTakesNothingMore) {
  const SequenceLayout layout(2, 500);
  expect_dry_equals_gpu(
      [&](Tape& tape, const std::vector<Var>& x) {
        return std::vector<Var>{swiglu(tape, x[0], x[1]), l2_norm(tape, x[0]),
                                rope(tape, x[0], layout.positions(), 10000)};
      },
      {{{2, 500, 4, 64}, kBF16}, {{2, 500, 4, 64}, kBF16}});
}

}  // namespace
}  // namespace spanwise::testing
