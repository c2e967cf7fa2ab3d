// What ops say that they take on a GPU (gated_delta_bytes and its like), by which runs are planned, is what
// they take.

#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/softmax_attention.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

// The allocator gives at least 256 bytes; bounds of attention's blocks of queries.
constexpr int64_t kSmallBytes = 16 << 10;

struct Taken {
  int64_t saved;     ///< beside operands and result
  int64_t backward;  ///< at most, beside the operands' gradients
};

Taken taken_by(const std::function<Var(Tape&, const std::vector<Var>&)>& op,
               const std::vector<Tensor>& operands) {
  Context& ctx = cuda_context();
  const auto live = [&ctx] { return int64_t(ctx.memory().live_bytes); };
  Taken taken{};
  // The first time, layouts are uploaded, which stay.
  for (int run = 0; run < 2; ++run) {
    std::vector<Var> x;
    int64_t gradients = 0;
    for (const Tensor& t : operands) {
      x.push_back(t.defined() ? Var(t, /*requires_grad=*/true) : Var());
      if (t.defined()) gradients += int64_t(t.bytes());
    }
    Tape tape(ctx);
    const int64_t before = live();
    const Var out = op(tape, x);
    taken.saved = live() - before - int64_t(out.value().bytes());
    const Tensor dout = Tensor::zeros(ctx, out.shape(), out.dtype());
    const int64_t held = live();
    ctx.reset_peak();
    tape.backward({out}, {dout});
    taken.backward = int64_t(ctx.memory().peak_bytes) - held - gradients;
  }
  return taken;
}

struct MemoryCase {
  std::string name;
  LinearStateShape shape;
  std::vector<int64_t> starts = {};  ///< documents'
};

std::vector<MemoryCase> linear_cases() {
  const auto bf16 = DType::kBF16, f32 = DType::kF32;
  return {
      {"shared key heads, K < V", {2, 300, 2, 6, 64, 256, bf16, true}},
      {"K > V, no decay", {1, 1000, 2, 2, 256, 64, bf16, false}},
      {"documents", {2, 1000, 4, 4, 128, 128, bf16, true}, {3, 400, 1100, 1999}},
      {"F32", {2, 500, 2, 4, 96, 80, f32, true}},
      {"F32, no decay", {1, 500, 2, 2, 64, 64, f32, false}},
      {"many heads", {8, 4096, 16, 16, 128, 128, bf16, true}},
      {"one long row: parts", {1, 32768, 4, 4, 128, 128, bf16, true}},
      {"one long row without decays: parts", {1, 32768, 2, 4, 128, 128, bf16, false}},
  };
}

SequenceLayout layout_of(const MemoryCase& c) {
  if (c.starts.empty()) return SequenceLayout(c.shape.rows, c.shape.length);
  return SequenceLayout(c.shape.rows, c.shape.length, c.starts);
}

/// q, k, v, log decay or undefined, beta.
std::vector<Tensor> operands_of(const LinearStateShape& s) {
  Context& ctx = cuda_context();
  const Shape keys{s.rows, s.length, s.key_heads, s.key_dim},
      values{s.rows, s.length, s.value_heads, s.value_dim}, gates{s.rows, s.length, s.value_heads};
  return {Tensor::zeros(ctx, keys, s.dtype), Tensor::zeros(ctx, keys, s.dtype),
          Tensor::zeros(ctx, values, s.dtype),
          s.token_decay ? Tensor::zeros(ctx, gates, DType::kF32) : Tensor(),
          Tensor::zeros(ctx, gates, DType::kF32)};
}

void expect_taken(const Taken& taken, int64_t saved, int64_t backward) {
  EXPECT_NEAR(double(taken.saved), double(saved), double(kSmallBytes));
  EXPECT_NEAR(double(taken.backward), double(backward), double(kSmallBytes));
}

TEST(OpMemoryCuda, GatedDeltaTakesWhatItSays) {
  for (const MemoryCase& c : linear_cases()) {
    SCOPED_TRACE(c.name);
    const SequenceLayout layout = layout_of(c);
    const LinearStateOptions options{.scale = 1.0};
    const Taken taken = taken_by(
        [&](Tape& tape, const std::vector<Var>& x) {
          return gated_delta(tape, x[0], x[1], x[2], x[3], x[4], layout, Var(), options).out;
        },
        operands_of(c.shape));
    const LinearStateBytes said = gated_delta_bytes(Device::kCUDA, c.shape, ChunkList(layout, options.chunk));
    expect_taken(taken, said.saved, said.backward);
  }
}

TEST(OpMemoryCuda, ScalarDecayTakesWhatItSays) {
  for (const MemoryCase& c : linear_cases()) {
    SCOPED_TRACE(c.name);
    const SequenceLayout layout = layout_of(c);
    const LinearStateOptions options{.scale = 1.0};
    std::vector<Tensor> operands = operands_of(c.shape);
    operands.pop_back();
    const Taken taken = taken_by(
        [&](Tape& tape, const std::vector<Var>& x) {
          return scalar_decay(tape, x[0], x[1], x[2], {.per_token = x[3], .per_head = Tensor()}, layout,
                              Var(), options)
              .out;
        },
        operands);
    const LinearStateBytes said =
        scalar_decay_bytes(Device::kCUDA, c.shape, ChunkList(layout, options.chunk));
    expect_taken(taken, said.saved, said.backward);
  }
}

TEST(OpMemoryCuda, AttentionTakesWhatItSays) {
  const std::vector<AttentionShape> shapes = {
      {2, 300, 300, 4, 2, 64, DType::kBF16, true},
      {1, 200, 200, 2, 2, 96, DType::kF32, true},
      {1, 1000, 1000, 4, 4, 128, DType::kBF16, true},
      {8, 4096, 4096, 16, 16, 128, DType::kBF16, true},  // one kernel
  };
  for (const AttentionShape& s : shapes) {
    SCOPED_TRACE(fmt::format("{} x {}, {} heads", s.batch, s.num_queries, s.heads));
    Context& ctx = cuda_context();
    const KeyRanges ranges = causal_key_ranges(SequenceLayout(s.batch, s.num_queries), 0);
    const Shape queries{s.batch, s.num_queries, s.heads, s.head_dim},
        keys{s.batch, s.num_keys, s.kv_heads, s.head_dim};
    const Taken taken = taken_by(
        [&](Tape& tape, const std::vector<Var>& x) {
          return softmax_attention(tape, x[0], x[1], x[2], ranges, 0.1);
        },
        {Tensor::zeros(ctx, queries, s.dtype), Tensor::zeros(ctx, keys, s.dtype),
         Tensor::zeros(ctx, keys, s.dtype)});
    expect_taken(taken, s.batch * s.num_queries * s.heads * int64_t(sizeof(float)),
                 softmax_attention_bwd_bytes(Device::kCUDA, s));
  }
}

}  // namespace
}  // namespace spanwise::testing
