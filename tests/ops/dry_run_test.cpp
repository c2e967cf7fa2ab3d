// Dry runs of what check_gradients and check_fp32, which compare every op's with a real one, do not reach:
// spans, divided dimensions, recomputation, BF16, steps of generation, the optimizer.

#include "core/ops/accumulate.h"
#include "core/ops/block_copy.h"
#include "core/ops/convert.h"
#include "core/ops/embedding.h"
#include "core/ops/gated_delta.h"
#include "core/ops/gated_rms_norm.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/rms_norm.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/scalars.h"
#include "core/ops/softmax_attention.h"
#include "core/ops/span_fold.h"
#include "core/optim/adamw.h"
#include "core/optim/clip.h"
#include "tests/testing/dry_testing.h"
#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;

/// `call` on a real and a dry Context: equal peaks, live bytes while what it returns lives, and work.
void check_dry_call(const std::function<std::shared_ptr<void>(Context&)>& call) {
  Context real({.num_threads = 2, .poison = true}), dry({.num_threads = 2, .dry = true});
  const std::shared_ptr<void> of_real = call(real), of_dry = call(dry);
  EXPECT_EQ(dry.memory().peak_bytes, real.memory().peak_bytes);
  EXPECT_EQ(dry.memory().live_bytes, real.memory().live_bytes);
  EXPECT_EQ(dry.work().flops, real.work().flops);
  EXPECT_EQ(dry.work().recomputed_flops, real.work().recomputed_flops);
  EXPECT_EQ(dry.work().bytes, real.work().bytes);
}

template <class T>
std::shared_ptr<void> keep(T value) {
  return std::make_shared<T>(std::move(value));
}

/// Or of zeros, in BF16.
Tensor ones(Context& ctx, const Shape& shape, DType dtype) {
  if (dtype == kBF16) return Tensor::zeros(ctx, shape, dtype);
  const Tensor t = Tensor::empty(ctx, shape, dtype);
  t.fill(1.0);
  return t;
}

/// States that come in are zero.
class ZeroExchange : public SpanExchange {
 public:
  explicit ZeroExchange(Context& ctx) : ctx_(ctx) {}
  std::unique_ptr<Forward> start_forward(const SpanSummary& summary) override {
    return std::make_unique<ZeroForward>(zeros(summary.state));
  }
  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>&) override {
    return std::make_unique<ZeroBackward>(zeros(dstate_in));
  }

 private:
  struct ZeroForward : Forward {
    explicit ZeroForward(Tensor t) : zeros(std::move(t)) {}
    IncomingState wait() override { return {zeros, nullptr}; }
    Tensor zeros;
  };
  struct ZeroBackward : Backward {
    explicit ZeroBackward(Tensor t) : zeros(std::move(t)) {}
    Tensor wait() override { return zeros; }
    Tensor zeros;
  };
  Tensor zeros(const Tensor& like) const { return Tensor::zeros(ctx_, like.shape(), like.dtype()); }
  Context& ctx_;
};

struct SpanCase {
  int64_t rows, length, H, HV, K, V;
  std::vector<int64_t> starts;
};
const std::vector<SpanCase> kSpanCases = {
    {2, 150, 2, 2, 6, 10, {}},
    {2, 150, 1, 3, 8, 6, {}},
    {3, 70, 2, 4, 5, 5, {10, 75, 90, 200}},  // documents end inside rows
};

SequenceLayout layout_of(const SpanCase& c) {
  return SequenceLayout(c.rows, c.length, c.starts, std::vector<int64_t>(size_t(c.rows), 7));
}

/// q, k, v, log decay, beta.
std::vector<Tensor> operands_of(const SpanCase& c, DType dtype) {
  const Shape keys{c.rows, c.length, c.H, c.K}, values{c.rows, c.length, c.HV, c.V},
      gates{c.rows, c.length, c.HV};
  return {random_tensor(keys, dtype, "q"), random_tensor(keys, dtype, "k"), random_tensor(values, dtype, "v"),
          random_tensor(gates, dtype, "g", 0.0, -0.1), random_tensor(gates, dtype, "beta", 0.0, 0.5)};
}

Var delta(Tape& tape, const std::vector<Var>& x, const SequenceLayout& layout,
          const LinearStateOptions& options) {
  return gated_delta(tape, operand_list(x), layout, options).out;
}
Var decay(Tape& tape, const std::vector<Var>& x, const SequenceLayout& layout,
          const LinearStateOptions& options) {
  LinearOperands<Var> operands = operand_list(x);
  operands.beta = Var();  // which it does not take
  return scalar_decay(tape, operands, layout, options).out;
}

TEST(DryRun, SpansOfLinearStates) {
  for (const SpanCase& c : kSpanCases) {
    for (const auto family : {delta, decay}) {
      for (const bool checkpointed : {false, true}) {
        SCOPED_TRACE(fmt::format("{} rows, HV {}, checkpointed {}", c.rows, c.HV, checkpointed));
        const SequenceLayout layout = layout_of(c);
        std::vector<std::shared_ptr<ZeroExchange>> exchanges;  // outlive backward
        check_dry(
            [&](Tape& tape, const std::vector<Var>& x) {
              exchanges.push_back(std::make_shared<ZeroExchange>(tape.context()));
              const LinearStateOptions options{.scale = 0.3, .chunk = 32, .exchange = exchanges.back().get()};
              const auto section = [&layout, family, options](Tape& of, const std::vector<Var>& in) {
                return std::vector<Var>{family(of, in, layout, options)};
              };
              return checkpointed ? checkpoint(tape, section, x) : section(tape, x);
            },
            operands_of(c, kF32));
        exchanges.clear();
      }
    }
  }
}

// Row 0 is one segment, which passes; row 1 ends a document of 2 tokens and starts one of 4.
TEST(DryRun, SpansCountTheirSummariesApart) {
  const SpanCase c{2, 6, 1, 3, 4, 5, {8}};
  const double K = double(c.K), V = double(c.V), HV = double(c.HV);
  const auto work_of = [&](const auto& family) {
    Context dry({.dry = true});
    ZeroExchange exchange(dry);
    return cost_of(
               dry,
               [&](Tape& tape, const std::vector<Var>& x) {
                 return std::vector<Var>{
                     family(tape, x, layout_of(c), {.scale = 0.3, .chunk = 4, .exchange = &exchange})};
               },
               operands_of(c, kF32))
        .backward;
  };
  const auto over = [&](const std::vector<double>& chunks, const auto& of) {
    double sum = 0;
    for (const double n : chunks) sum += HV * of(n);
    return sum;
  };
  const std::vector<double> all = {4, 2, 2, 4}, continuing = {4, 2, 2}, ending_row = {4, 2, 4},
                            passing = {4, 2};

  const auto of_delta = [=](double n) { return 2 * n * n * (K + V) + 6 * n * K * V; };
  const auto delta_state = [=](double n) { return n * (n - 1) * (K + V) + 4 * n * K * V; };
  const auto transition = [=](double n) { return n * (n - 1) * K + 4 * n * K * K; };
  EXPECT_EQ(work_of(delta).flops, 3 * over(all, of_delta));
  EXPECT_EQ(work_of(delta).recomputed_flops,
            over(ending_row, delta_state) + over(passing, transition) + over(continuing, of_delta));

  const auto of_decay = [=](double n) { return n * (n + 1) * (K + V) + 4 * n * K * V; };
  const auto decay_state = [=](double n) { return 2 * n * K * V; };
  EXPECT_EQ(work_of(decay).flops, 3 * over(all, of_decay));
  EXPECT_EQ(work_of(decay).recomputed_flops, over(ending_row, decay_state) + over(continuing, decay_state));
}

TEST(DryRun, LinearStatesThatForwardAgain) {
  for (const SpanCase& c : kSpanCases) {
    for (const auto family : {delta, decay}) {
      const SequenceLayout layout = layout_of(c);
      check_dry(
          [&](Tape& tape, const std::vector<Var>& x) {
            return std::vector<Var>{family(tape, x, layout, {.scale = 0.3, .chunk = 32, .recompute = true})};
          },
          operands_of(c, DType::kF64));
    }
  }
}

TEST(DryRun, StepsOfGeneration) {
  for (const bool with_beta : {false, true}) {
    check_dry_call([&](Context& ctx) {
      LinearOperands<Tensor> x{.q = ones(ctx, {3, 1, 2, 8}, kF32),
                               .k = ones(ctx, {3, 1, 2, 8}, kF32),
                               .v = ones(ctx, {3, 1, 4, 6}, kF32),
                               .initial_state = ones(ctx, {3, 4, 8, 6}, kF32)};
      if (with_beta) x.beta = ones(ctx, {3, 1, 4}, kF32);
      return keep(linear_state_step(ctx, with_beta ? kGatedDelta : kScalarDecay, x, 1));
    });
  }
}

TEST(DryRun, AttentionInEveryDType) {
  for (const DType dtype : {kBF16, kF32, DType::kF64}) {
    for (const int64_t window : {0, 20}) {
      const SequenceLayout layout(2, 130, {0, 40, 130, 200});
      const Tensor wide = ones(test_context(), {2, 130, 4 * 8 + 2 * 2 * 8}, dtype);
      check_dry(
          [&](Tape& tape, const std::vector<Var>& x) {
            return std::vector<Var>{
                softmax_attention(tape, x[0], x[1], x[2], causal_key_ranges(layout, window), 0.3)};
          },
          {wide.column_range(0, 32).reshape({2, 130, 4, 8}),
           wide.column_range(32, 48).reshape({2, 130, 2, 8}),
           wide.column_range(48, 64).reshape({2, 130, 2, 8})});
    }
  }
}

TEST(DryRun, MergedAttention) {
  check_dry_call([](Context& ctx) {
    const auto forward = [&](DType dtype) {
      return AttentionForward{ones(ctx, {2, 9, 3, 4}, dtype), ones(ctx, {2, 9, 3}, kF32)};
    };
    const AttentionForward total = forward(kF32);
    merge_attention(ctx, total, forward(kBF16), {std::vector<int64_t>(18, 0), std::vector<int64_t>(18, 1)});
    return keep(total);
  });
}

/// A part of a dimension whose reductions count how often, and how much, they are asked for.
struct CountedPart {
  explicit CountedPart(int64_t begin, int64_t whole) {
    part.begin = begin;
    part.whole = whole;
    part.sum = part.max = [this](const Tensor& t) { reduced.push_back(t.numel()); };
  }
  DimPart part;
  std::vector<int64_t> reduced;
};

/// op's reductions are the same on a dry Context.
void check_divided(const std::function<std::vector<Var>(Tape&, const std::vector<Var>&, const DimPart&)>& op,
                   const std::vector<Tensor>& operands, int64_t begin, int64_t whole) {
  CountedPart part(begin, whole);
  check_dry([&](Tape& tape, const std::vector<Var>& x) { return op(tape, x, part.part); }, operands);
  ASSERT_EQ(part.reduced.size() % 2, 0u);
  ASSERT_FALSE(part.reduced.empty());
  const auto middle = part.reduced.begin() + int64_t(part.reduced.size()) / 2;
  EXPECT_EQ(std::vector(part.reduced.begin(), middle), std::vector(middle, part.reduced.end()));
}

TEST(DryRun, DividedDimensionsReduceTheSame) {
  const Tensor x = random_tensor({5, 7, 12}, kF32, "x"), gate = random_tensor({5, 7, 12}, kF32, "gate"),
               w = random_tensor({12}, kF32, "w"), vocabulary = random_tensor({9, 12}, kF32, "vocabulary");
  check_divided([](Tape& tape, const std::vector<Var>& v,
                   const DimPart& part) { return std::vector<Var>{rms_norm(tape, v[0], v[1], 1e-6, part)}; },
                {x, w}, 0, 24);
  check_divided(
      [](Tape& tape, const std::vector<Var>& v, const DimPart& part) {
        return std::vector<Var>{gated_rms_norm(tape, v[0], v[1], v[2], 1e-6, {.part = part})};
      },
      {x, gate, w}, 0, 24);
  check_divided(
      [](Tape& tape, const std::vector<Var>& v, const DimPart& part) {
        return std::vector<Var>{linear_cross_entropy(tape, v[0], v[1], std::vector<int32_t>(35, 3),
                                                     {.loss_scale = 1, .chunk_rows = 8, .part = part})
                                    .loss};
      },
      {x, vocabulary}, 0, 18);
  check_dry(
      [](Tape& tape, const std::vector<Var>& v) {
        return std::vector<Var>{
            embedding(tape, {1, 12, 4, 12}, {2, 2}, v[0], {.begin = 9, .whole = 18, .sum = {}, .max = {}})};
      },
      {vocabulary});
}

TEST(DryRun, TensorsBesideTapes) {
  check_dry_call([](Context& ctx) {
    const Tensor a = ones(ctx, {4, 6}, kF32), low = ones(ctx, {4, 6}, kBF16);
    accumulate(ctx, a, low);
    convert(ctx, a, low);
    copy_blocks(ctx, a, a, {{.rows = 2, .width = 3, .from = 0, .from_stride = 6, .to = 12, .to_stride = 6}});
    add_blocks(ctx, low, a, {{.rows = 2, .width = 3, .from = 0, .from_stride = 6, .to = 12, .to_stride = 6}});
    linear_bwd_weight(ctx, a, a, {ones(ctx, {6, 6}, kF32), /*accumulate=*/true});
    return keep(a);
  });
  check_dry_call([](Context& ctx) {
    const Tensor state = ones(ctx, {2, 4, 3}, kF32), dense = ones(ctx, {2, 4, 4}, kF32),
                 log_decay = ones(ctx, {2}, kF32);
    apply_transition_transposed(ctx, {TransitionKind::kDense, dense}, state, state);
    compose_transitions(ctx, {TransitionKind::kDense, dense}, {TransitionKind::kDense, dense});
    compose_transitions(ctx, {TransitionKind::kScalar, log_decay}, {TransitionKind::kScalar, log_decay});
    return keep(apply_transition(ctx, {TransitionKind::kScalar, log_decay}, state, state));
  });
}

TEST(DryRun, Optimizer) {
  for (const DType copy : {kF32, kBF16}) {
    check_dry_call([&](Context& ctx) {
      const Shape shape{1000, 7};
      const auto make = [&](DType dtype) { return ones(ctx, shape, dtype); };
      const auto adamw = std::make_shared<AdamW>(
          ctx, std::vector<AdamWTensors>{
                   {.param = make(kF32), .m = make(kF32), .v = make(kF32)},
                   {.param = make(kF32), .m = make(kF32), .v = make(kF32), .copy = make(copy)}});
      const std::vector<Tensor> grads{make(kF32), make(kF32)};
      const Tensor norm = squared_norm(ctx, grads);
      adamw->step(grads, {.lr = 1e-3, .step = 1}, {.squared_norm = norm, .max_norm = 1});
      read_scalars(ctx, {norm});
      return adamw;
    });
  }
}

}  // namespace
}  // namespace spanwise::testing
