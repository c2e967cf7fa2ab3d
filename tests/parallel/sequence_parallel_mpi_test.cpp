// Run under mpirun with several rank counts: linear-state ops and halos on the parts of a sequence equal
// those on whole rows, whatever way states travel.

#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/short_conv.h"
#include "tests/parallel/sequence_testing.h"
#include "tests/testing/user_error.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kKeyDim = 5, kValueDim = 3;
int64_t num_heads() {
  return world().size() == 3 ? 6 : 4;
}

enum class Family { kSum, kHeadDecay, kTokenDecay, kDelta, kGatedDelta };
constexpr Family kFamilies[] = {Family::kSum, Family::kHeadDecay, Family::kTokenDecay, Family::kDelta,
                                Family::kGatedDelta};
bool is_delta(Family family) {
  return family == Family::kDelta || family == Family::kGatedDelta;
}

/// q, k, v, log_decay, beta; undefined where the family has none. Slow decays, so that a leak would show,
/// other ones in each head.
std::vector<Tensor> operands_of(Family family, int64_t batch, int64_t length) {
  const int64_t heads = num_heads();
  std::vector<Tensor> x{random_tensor({batch, length, heads / 2, kKeyDim}, DType::kF64, "q"),
                        random_tensor({batch, length, heads / 2, kKeyDim}, DType::kF64, "k", 0.4),
                        random_tensor({batch, length, heads, kValueDim}, DType::kF64, "v"),
                        {},
                        {}};
  if (family == Family::kTokenDecay || family == Family::kGatedDelta) {
    x[3] = random_tensor({batch, length, heads}, DType::kF64, "g");
    for (int64_t i = 0; i < x[3].numel(); ++i) {
      double& g = x[3].data<double>()[i];
      g = -0.02 * std::abs(g) * double(1 + i % heads);
    }
  }
  if (is_delta(family)) x[4] = random_tensor({batch, length, heads}, DType::kF64, "beta", 0.1, 0.5);
  return x;
}

Op op_of(Family family, const SequenceLayout& layout, SpanExchange* exchange) {
  return [family, &layout, exchange](Tape& tape, const std::vector<Var>& x) {
    const LinearStateOptions options{.scale = 0.6, .chunk = 4, .exchange = exchange};
    LinearOperands<Var> operands{.q = x[0], .k = x[1], .v = x[2], .log_decay = x[3], .beta = x[4]};
    if (family == Family::kHeadDecay) {
      std::vector<double> g;
      for (int64_t h = 0; h < num_heads(); ++h) g.push_back(-0.03 * double(h + 1));
      operands.head_log_decay = Var(Tensor::from(test_context(), {num_heads()}, g));
    }
    return linear_state(tape, is_delta(family) ? kGatedDelta : kScalarDecay, operands, layout, options).out;
  };
}

struct Algorithm {
  const char* name;
  SequenceParallelOptions options;
};
std::vector<Algorithm> algorithms() {
  std::vector<Algorithm> all{{"auto", {.exchange = StateExchange::kAuto}},
                             {"all-gather", {.exchange = StateExchange::kAllGather}},
                             {"chain", {.exchange = StateExchange::kChain}},
                             {"head-split", {.exchange = StateExchange::kHeadSplit}}};
  for (int n = 1; n <= world().size(); ++n) {
    if (world().size() % n == 0)
      all.push_back({"two-level", {.exchange = StateExchange::kTwoLevel, .ranks_per_node = n}});
  }
  return all;
}

template <class F>
void for_each_case(F&& visit) {
  for (const Rows& rows : row_cases()) {
    for (const Partition partition : partitions()) {
      SCOPED_TRACE(
          fmt::format("{}, {}", rows.name, partition == Partition::kZigzag ? "zigzag" : "contiguous"));
      visit(rows, plan_of(rows, partition));
    }
  }
}

TEST(StateExchange, EveryAlgorithmAndFamilyEqualsTheWholeRows) {
  for_each_case([](const Rows& rows, const SequencePlan& plan) {
    const SequenceLayout whole = rows.layout();
    for (const Algorithm& algorithm : algorithms()) {
      const SequenceParallel sequence(test_context(), world(), plan, algorithm.options);
      for (const Family family : kFamilies) {
        SCOPED_TRACE(
            fmt::format("{} ({}), family {}", algorithm.name, algorithm.options.ranks_per_node, int(family)));
        expect_equals_whole(rows, plan, op_of(family, plan.local(), &sequence.spans()),
                            op_of(family, whole, nullptr), operands_of(family, rows.batch, rows.length));
      }
    }
  });
}

TEST(StateExchange, NothingLeaksIntoOtherDocumentsOrThePast) {
  const Rows rows = row_cases()[3];
  for (const Partition partition : partitions()) {
    const SequencePlan plan = plan_of(rows, partition);
    for (const Algorithm& algorithm : algorithms()) {
      const SequenceParallel sequence(test_context(), world(), plan, algorithm.options);
      SCOPED_TRACE(algorithm.name);
      for (const Family family : {Family::kTokenDecay, Family::kGatedDelta})
        expect_no_leaks(rows, plan, op_of(family, plan.local(), &sequence.spans()),
                        operands_of(family, rows.batch, rows.length));
    }
  }
}

/// What ranks hold: different values on each.
Tensor part_of(const Shape& shape, const char* name, double scale, double shift = 0) {
  return random_tensor(shape, DType::kF64, fmt::format("{} {}", name, world().rank()), scale, shift);
}

// No op has them yet; a matrix with the decays on its diagonal says what they must come to.
TEST(StateExchange, DiagonalTransitionsFoldAsTheirMatrices) {
  for_each_case([](const Rows&, const SequencePlan& plan) {
    const int64_t heads = num_heads(), rows = plan.num_local_rows();
    const Tensor state = part_of({rows, heads, kKeyDim, kValueDim}, "B", 1),
                 decays = part_of({rows, heads, kKeyDim}, "g", 0.1, -0.3),
                 matrices = Tensor::zeros(test_context(), {rows, heads, kKeyDim, kKeyDim}, DType::kF64);
    for (int64_t i = 0; i < decays.numel(); ++i)
      matrices.data<double>()[i * kKeyDim + i % kKeyDim] = std::exp(decays.data<double>()[i]);
    for (const Algorithm& algorithm : algorithms()) {
      SCOPED_TRACE(algorithm.name);
      const SequenceParallel sequence(test_context(), world(), plan, algorithm.options);
      const auto results_of = [&](TransitionKind kind, const Tensor& values) {
        const IncomingState incoming =
            sequence.spans().start_forward({.transition = {kind, values}, .state = state})->wait();
        return std::vector<Tensor>{incoming.state,
                                   sequence.spans().start_backward(state, incoming.saved)->wait()};
      };
      const std::vector<Tensor> actual = results_of(TransitionKind::kDiagonal, decays),
                                expected = results_of(TransitionKind::kDense, matrices);
      EXPECT_TRUE(near(actual[0], expected[0], kLayoutTolerance));
      EXPECT_TRUE(near(actual[1], expected[1], kLayoutTolerance));
    }
  });
}

struct Bytes {
  int64_t forward, backward;
};

// The table of parallel/state_exchange.h.
Bytes expected_bytes(const SequencePlan& plan, const SequenceParallelOptions& options, Family family) {
  const int64_t W = world().size(), heads = num_heads(), rows = plan.num_local_rows();
  const int64_t states = 8 * rows * heads * kKeyDim * kValueDim;
  int64_t transitions = 0;
  if (family == Family::kTokenDecay || family == Family::kHeadDecay) transitions = 8 * rows * heads;
  if (is_delta(family)) transitions = 8 * rows * heads * kKeyDim * kKeyDim;
  const int64_t n = options.ranks_per_node, both = states + transitions;
  switch (options.exchange) {
    case StateExchange::kAuto:
    case StateExchange::kAllGather:
      return {(W - 1) * both, (W - 1) * states};
    case StateExchange::kHeadSplit:
      return {(W - 1) * both / W + (W - 1) * states / W, 2 * (W - 1) * states / W};
    case StateExchange::kTwoLevel:
      return {(n - 1 + W / n - 1) * both, (n - 1 + W / n - 1) * states};
    case StateExchange::kChain:
      break;
  }
  const SequencePartition& p = plan.partition();
  Bytes bytes{};
  for (int part = 0; part + 1 < p.num_parts(); ++part) {
    if (p.owner(part) == p.owner(part + 1)) continue;
    if (p.owner(part + 1) == world().rank()) bytes.forward += states / p.slots();
    if (p.owner(part) == world().rank()) bytes.backward += states / p.slots();
  }
  return bytes;
}

TEST(StateExchange, BytesFollowTheFormulasAndNotTheLength) {
  for (const int64_t length : {32, 320}) {
    for (const Partition partition : partitions()) {
      const SequencePlan plan = plan_of({"", 2, length, {0, length}}, partition);
      for (const Algorithm& algorithm : algorithms()) {
        const SequenceParallel sequence(test_context(), world(), plan, algorithm.options);
        for (const Family family : kFamilies) {
          std::vector<Tensor> parts;
          for (const Tensor& t : operands_of(family, 2, length))
            parts.push_back(t.defined() ? take_local(plan, t, 0) : t);
          const Tensor dout =
              take_local(plan, random_tensor({2, length, num_heads(), kValueDim}, DType::kF64, "dout"), 0);
          world().reset_traffic();
          run_op(op_of(family, plan.local(), &sequence.spans()), parts, dout);
          Bytes measured{};
          for (const auto& [name, traffic] : world().traffic())
            (name.starts_with("state_forward") ? measured.forward : measured.backward) +=
                traffic.received_bytes;
          const Bytes expected = expected_bytes(plan, algorithm.options, family);
          EXPECT_EQ(measured.forward, expected.forward) << algorithm.name << " " << int(family);
          EXPECT_EQ(measured.backward, expected.backward) << algorithm.name << " " << int(family);
        }
      }
    }
  }
}

TEST(StateExchange, AutomaticChoiceSplitsHeadsOfLargeStates) {
  if (world().size() == 1) return;
  const SequencePlan plan = plan_of({"", 1, 8, {0}}, Partition::kContiguous);
  const SequenceParallel sequence(test_context(), world(), plan, {});
  for (const int64_t heads : {num_heads(), num_heads() + 1}) {
    const SpanSummary large{.state = random_tensor({1, heads, 384, 384}, DType::kF64, "state")};
    world().reset_traffic();
    const IncomingState incoming = sequence.spans().start_forward(large)->wait();
    sequence.spans().start_backward(large.state, incoming.saved)->wait();
    const bool split = heads % world().size() == 0;
    EXPECT_EQ(world().traffic().contains("state_forward_return"), split);
    EXPECT_EQ(world().traffic().contains("state_backward_return"), split);
  }
}

TEST(StateExchange, RefusesRanksThatDoNotFit) {
  if (world().size() == 1) return;
  const SequencePlan plan = plan_of({"", 1, 8, {0}}, Partition::kContiguous);
  const SequenceParallel split(test_context(), world(), plan, {.exchange = StateExchange::kHeadSplit});
  const SpanSummary odd{.state = Tensor::zeros(test_context(), {1, world().size() + 1, 2, 2}, DType::kF64)};
  EXPECT_NE(user_error_of([&] { split.spans().start_forward(odd); }).find("HEAD_SPLIT"), std::string::npos);
  const SequenceParallelOptions uneven{.exchange = StateExchange::kTwoLevel,
                                       .ranks_per_node = world().size() + 1};
  EXPECT_NE(user_error_of([&] { SequenceParallel(test_context(), world(), plan, uneven); }).find("TWO_LEVEL"),
            std::string::npos);
}

Op conv_of(const SequenceLayout& layout, const SequenceParallel* sequence, const Tensor& weight) {
  return [&layout, sequence, weight](Tape& tape, const std::vector<Var>& x) {
    const Var before = sequence ? sequence->halo(tape, x[0], weight.dim(2) - 1) : Var();
    return short_conv(tape, x[0], Var(weight), Var(), layout, Activation::kSiLU, before).out;
  };
}

TEST(Halo, ShortConvolutionsEqualTheWholeRows) {
  for_each_case([](const Rows& rows, const SequencePlan& plan) {
    const SequenceLayout whole = rows.layout();
    const SequenceParallel sequence(test_context(), world(), plan, {});
    for (const int64_t taps : {2, 4}) {
      const Tensor weight = random_tensor({6, 1, taps}, DType::kF64, "weight");
      const Tensor x = random_tensor({rows.batch, rows.length, 6}, DType::kF64, "x");
      expect_equals_whole(rows, plan, conv_of(plan.local(), &sequence, weight),
                          conv_of(whole, nullptr, weight), {x});
      expect_no_leaks(rows, plan, conv_of(plan.local(), &sequence, weight), {x});
    }
  });
}

TEST(Halo, ReadsColumnBlocks) {
  const Rows rows = row_cases()[1];
  const SequencePlan plan = plan_of(rows, Partition::kZigzag);
  const SequenceParallel sequence(test_context(), world(), plan, {});
  const Tensor wide = take_local(plan, random_tensor({rows.batch, rows.length, 9}, DType::kF64, "x"), 0);
  const Tensor block = wide.column_range(2, 7);
  Tape tape(test_context(), Tape::Mode::kInference);
  const Tensor from_block = sequence.halo(tape, Var(block), 3).value();
  EXPECT_TRUE(
      bitwise_equal(from_block, sequence.halo(tape, Var(block.to_contiguous(test_context())), 3).value()));
}

TEST(Halo, BytesAreTheHalosAndNotTheLengths) {
  const int64_t batch = 2, channels = 6, width = 3;
  for (const int64_t length : {64, 640}) {
    for (const Partition partition : partitions()) {
      const SequencePlan plan = plan_of({"", batch, length, {0, length}}, partition);
      const SequenceParallel sequence(test_context(), world(), plan, {});
      const Tensor x = take_local(plan, random_tensor({batch, length, channels}, DType::kF64, "x"), 0);
      world().reset_traffic();
      Tape tape(test_context(), Tape::Mode::kInference);
      sequence.halo(tape, Var(x), width);
      const SequencePartition& p = plan.partition();
      int64_t expected = 0;
      for (int slot = 0; slot < p.slots(); ++slot) {
        const int part = p.part(plan.rank(), slot);
        if (part > 0 && p.owner(part - 1) != plan.rank()) expected += batch * width * channels * 8;
      }
      EXPECT_EQ(world().traffic().at("halo_forward").received_bytes, expected);
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
