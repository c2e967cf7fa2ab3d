#include "core/ops/span.h"

#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "tests/testing/folding_exchange.h"
#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

using Order = SpanCut::Order;

/// Operands in the order of operands_of, without initial_state.
LinearStateResult run(const LinearFamily& family, const LinearCase& c, Tape& tape, const std::vector<Var>& x,
                      const SequenceLayout& layout, SpanExchange* exchange) {
  LinearOperands<Var> operands = operand_list(x);
  if (c.gate == Gate::kPerHead) operands.head_log_decay = Var(head_log_decay_of(c, x[0].value().dtype()));
  return linear_state(tape, family, operands, layout,
                      {.scale = c.scale(), .chunk = c.chunk, .exchange = exchange});
}

bool is_delta(const LinearFamily& family) {
  return family.needs.has(LinearOperand::kBeta);
}

enum class Checkpoint { kNone, kOne, kNested };

struct Results {
  Tensor out, final_state;
  std::vector<Tensor> grads;
};

/// Output and gradients for given gradients of the output.
Results results_of(const LinearFamily& family, const LinearCase& c, const std::vector<Tensor>& operands,
                   const Tensor& dout, const SequenceLayout& layout, SpanExchange* exchange,
                   Checkpoint checkpoints = Checkpoint::kNone) {
  std::vector<Var> x;
  for (const Tensor& t : operands) x.push_back(t.defined() ? Var(t, true) : Var());
  Tape tape(test_context());
  const SectionFunction once = [&](Tape& t, const std::vector<Var>& in) {
    const LinearStateResult r = run(family, c, t, in, layout, exchange);
    return std::vector<Var>{r.out, r.final_state};
  };
  const SectionFunction twice = [&](Tape& t, const std::vector<Var>& in) { return checkpoint(t, once, in); };
  const std::vector<Var> outputs = checkpoints == Checkpoint::kNone  ? once(tape, x)
                                   : checkpoints == Checkpoint::kOne ? checkpoint(tape, once, x)
                                                                     : checkpoint(tape, twice, x);
  tape.backward({outputs[0]}, {dout});
  Results results{outputs[0].value(), outputs[1].value(), {}};
  for (const Var& v : x) results.grads.push_back(v.defined() ? v.grad() : Tensor());
  return results;
}

std::vector<Tensor> whole_operands(const LinearFamily& family, const LinearCase& c) {
  std::vector<Tensor> x = operands_of(c, family);
  x.pop_back();
  return x;
}
Tensor whole_dout(const LinearCase& c) {
  return random_tensor({c.B, c.T, c.HV, c.V}, DType::kF64, "dout");
}
std::vector<Tensor> cut_operands(const SpanCut& cut, const std::vector<Tensor>& whole) {
  std::vector<Tensor> rows;
  for (size_t i = 0; i < whole.size(); ++i) rows.push_back(cut.cut(whole[i], i == 3 ? -1 : 1));
  return rows;
}

/// Every span count and order gives the one-row call's output and gradients.
void expect_spans_equal_whole(const LinearFamily& family, const LinearCase& c) {
  SCOPED_TRACE(c.name);
  const std::vector<Tensor> x = whole_operands(family, c);
  const Tensor dout = whole_dout(c);
  const Results whole = results_of(family, c, x, dout, c.layout(), nullptr);
  const double summed = size_of(whole.grads);
  for (const int64_t P : {1, 2, 3, 8}) {
    for (const Order order : {Order::kInRow, Order::kZigzag}) {
      SCOPED_TRACE(fmt::format("{} spans{}", P, order == Order::kZigzag ? ", zigzag" : ""));
      const SpanCut cut(c.B, c.T, P, c.starts, order);
      const std::vector<Tensor> rows = cut_operands(cut, x);
      for (const DType dtype : {DType::kF64, DType::kF32}) {
        FoldingExchange exchange(cut.layout(), cut.chains());
        std::vector<Tensor> cast_rows;
        for (const Tensor& t : rows) cast_rows.push_back(cast(t, dtype));
        const Results spans =
            results_of(family, c, cast_rows, cast(cut.cut(dout), dtype), cut.layout(), &exchange);
        const double value_bound = dtype == DType::kF64 ? 1e-10 : kTolerance32.value;
        EXPECT_TRUE(near(cut.join(spans.out), whole.out, value_bound)) << name_of(dtype);
        for (size_t i = 0; i < x.size(); ++i) {
          if (!x[i].defined()) continue;
          const double bound = dtype == DType::kF64 ? 1e-10 : kTolerance32.gradient;
          EXPECT_TRUE(near(cut.join(spans.grads[i]), whole.grads[i], bound, rounding_of(dtype, summed)))
              << name_of(dtype) << " operand " << i;
        }
        EXPECT_EQ(exchange.num_forwards, 1);
        EXPECT_EQ(exchange.num_backwards, 1);
      }
    }
  }
}

std::vector<LinearCase> span_cases() {
  return {
      {.name = "one document", .T = 72},
      {.name = "uneven spans", .T = 61, .HV = 2, .chunk = 8},
      {.name = "no decay", .T = 48, .gate = Gate::kNone},
      {.name = "slow decay", .T = 72, .HV = 3, .gate_scale = 1e-4},
      {.name = "fast decay", .T = 40, .HV = 2, .gate_scale = 8},
      {.name = "resets by decay", .T = 50, .gate_scale = 0.05, .reset_period = 11},
      {.name = "shared key heads, K < V", .B = 2, .T = 37, .H = 2, .HV = 4, .K = 5, .V = 9},
      {.name = "one key head, K > V", .B = 2, .T = 37, .H = 1, .HV = 3, .K = 9, .V = 4},
      {.name = "boundaries on, beside and between borders",
       .B = 2,
       .T = 48,
       .HV = 2,
       .chunk = 4,
       .starts = {0, 5, 6, 7, 12, 16, 23, 25, 40, 48, 72, 73, 79, 81}},
      {.name = "documents over many spans", .T = 72, .starts = {0, 10, 62}, .gate_scale = 0.01},
      {.name = "documents of one token", .T = 24, .starts = {0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 22, 23}},
      {.name = "spans of padding alone", .T = 9, .HV = 2, .starts = {0, 3}},
      {.name = "spans of one token, more spans than tokens", .T = 5, .gate_scale = 0.1},
      {.name = "beta up to 2", .T = 40, .gate_scale = 0.02, .max_beta = 2.0},
  };
}

TEST(Span, ScalarDecayOnSpansEqualsTheWholeSequence) {
  for (const LinearCase& c : span_cases()) expect_spans_equal_whole(kScalarDecay, c);
}

TEST(Span, ConstantDecayOnSpansEqualsTheWholeSequence) {
  for (LinearCase c : span_cases()) {
    if (c.gate != Gate::kPerToken) continue;
    c.gate = Gate::kPerHead;
    expect_spans_equal_whole(kScalarDecay, c);
  }
}

TEST(Span, GatedDeltaOnSpansEqualsTheWholeSequence) {
  for (const LinearCase& c : span_cases()) expect_spans_equal_whole(kGatedDelta, c);
}

TEST(Span, DeltaRuleWithoutAGateOnSpansEqualsTheWholeSequence) {
  for (LinearCase c : span_cases()) {
    c.gate = Gate::kNone;
    expect_spans_equal_whole(kGatedDelta, c);
  }
}

TEST(Span, TheLastSpansFinalStateIsTheWholeSequences) {
  const LinearCase c{.name = "", .T = 48, .HV = 2, .starts = {0, 10}};
  const SpanCut cut(c.B, c.T, 8, c.starts, Order::kZigzag);
  for (const LinearFamily& family : {kScalarDecay, kGatedDelta}) {
    const std::vector<Tensor> x = whole_operands(family, c);
    FoldingExchange exchange(cut.layout(), cut.chains());
    const Results spans = results_of(family, c, cut_operands(cut, x), cut.cut(whole_dout(c)), cut.layout(),
                                     &exchange),
                  whole = results_of(family, c, x, whole_dout(c), c.layout(), nullptr);
    const int64_t last = cut.row(0, 7);
    EXPECT_TRUE(near(spans.final_state.row_range(last, last + 1), whole.final_state, 1e-10));
  }
}

TEST(Span, CheckpointingIsBitwiseEqualAndExchangesOnce) {
  const LinearCase c{.name = "", .T = 61, .H = 1, .HV = 2, .starts = {0, 20, 21, 50}};
  const SpanCut cut(c.B, c.T, 3, c.starts, Order::kInRow);
  for (const LinearFamily& family : {kScalarDecay, kGatedDelta}) {
    const std::vector<Tensor> rows = cut_operands(cut, whole_operands(family, c));
    FoldingExchange plain_exchange(cut.layout(), cut.chains());
    const Results plain = results_of(family, c, rows, cut.cut(whole_dout(c)), cut.layout(), &plain_exchange);
    for (const Checkpoint checkpoints : {Checkpoint::kOne, Checkpoint::kNested}) {
      FoldingExchange exchange(cut.layout(), cut.chains());
      const Results again =
          results_of(family, c, rows, cut.cut(whole_dout(c)), cut.layout(), &exchange, checkpoints);
      EXPECT_EQ(exchange.num_forwards, 1);
      EXPECT_EQ(exchange.num_backwards, 1);
      EXPECT_TRUE(bitwise_equal(plain.out, again.out));
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].defined()) {
          EXPECT_TRUE(bitwise_equal(plain.grads[i], again.grads[i])) << "operand " << i;
        }
      }
    }
  }
}

// Rows: one document carried through; a document that ends and one that starts; one that starts with the row.
TEST(Span, SummariesAreContiguousAndOfTheStatedShapes) {
  const LinearCase c{.name = "", .B = 3, .T = 20, .H = 1, .HV = 2, .K = 4, .V = 7, .starts = {27, 40}};
  const std::vector<std::vector<int64_t>> chains{{0, 1, 2}};
  for (const LinearFamily& family : {kScalarDecay, kGatedDelta}) {
    for (const Gate gate : {Gate::kNone, Gate::kPerHead, Gate::kPerToken}) {
      LinearCase gated = c;
      gated.gate = gate;
      if (is_delta(family) && gate == Gate::kPerHead) continue;
      const std::vector<Tensor> x = whole_operands(family, gated);
      FoldingExchange exchange(gated.layout(), chains);
      results_of(family, gated, x, whole_dout(gated), gated.layout(), &exchange);
      const SpanSummary& s = exchange.summary;
      EXPECT_EQ(s.state.shape(), Shape({3, 2, 4, 7}));
      EXPECT_TRUE(s.state.contiguous());
      const auto& [kind, values] = s.transition;
      EXPECT_EQ(kind, is_delta(family)      ? TransitionKind::kDense
                      : gate != Gate::kNone ? TransitionKind::kScalar
                                            : TransitionKind::kIdentity);
      EXPECT_EQ(values.defined(), kind != TransitionKind::kIdentity);
      if (kind == TransitionKind::kDense) {
        EXPECT_EQ(values.shape(), Shape({3, 2, 4, 4}));
        EXPECT_TRUE(values.contiguous());
        const std::vector<double> m = to_doubles(values.row_range(1, 3));
        EXPECT_EQ(m, std::vector<double>(m.size(), 0.0));
      }
      if (kind == TransitionKind::kScalar && gate == Gate::kPerToken) {
        double sum = 0;
        for (int64_t t = 0; t < 20; ++t) sum += to_doubles(x[3])[t * 2 + 1];
        EXPECT_EQ(values.shape(), Shape({3, 2}));
        EXPECT_NEAR(to_doubles(values)[1], sum, 1e-12);
      }
      EXPECT_EQ(exchange.dstate_in.shape(), s.state.shape());
      EXPECT_TRUE(exchange.dstate_in.contiguous());
      const std::vector<double> d = to_doubles(exchange.dstate_in.row_range(2, 3));
      EXPECT_EQ(d, std::vector<double>(d.size(), 0.0));
    }
  }
}

// Slow decay, so that a leak would show.
TEST(Span, ADocumentOfAnotherSpanChangesNoBit) {
  const LinearCase c{.name = "", .T = 48, .HV = 2, .starts = {0, 20}, .gate_scale = 1e-3};
  const SpanCut cut(c.B, c.T, 8, c.starts, Order::kInRow);
  for (const LinearFamily& family : {kScalarDecay, kGatedDelta}) {
    std::vector<Tensor> x = whole_operands(family, c);
    std::vector<Tensor> outs;
    for (const double value : {1.0, 3.0}) {
      for (int64_t i = 0; i < 20 * c.HV * c.V; ++i) x[2].data<double>()[i] *= value;
      FoldingExchange exchange(cut.layout(), cut.chains());
      const Results r =
          results_of(family, c, cut_operands(cut, x), cut.cut(whole_dout(c)), cut.layout(), &exchange);
      outs.push_back(cut.join(r.out).reshape({c.T, c.HV * c.V}));
    }
    EXPECT_TRUE(bitwise_equal(outs[0].row_range(20, 48), outs[1].row_range(20, 48)));
    EXPECT_FALSE(bitwise_equal(outs[0].row_range(0, 20), outs[1].row_range(0, 20)));
  }
}

TEST(Span, InferenceExchangesAndKeepsNothing) {
  const LinearCase c{.name = "", .T = 48};
  const SpanCut cut(c.B, c.T, 3, c.starts, Order::kInRow);
  for (const LinearFamily& family : {kScalarDecay, kGatedDelta}) {
    const std::vector<Tensor> x = whole_operands(family, c), rows = cut_operands(cut, x);
    FoldingExchange exchange(cut.layout(), cut.chains());
    const auto op = [&](SpanExchange* e, const SequenceLayout& layout) {
      return [&, e](Tape& tape, const std::vector<Var>& in) {
        return std::vector<Var>{run(family, c, tape, in, layout, e).out};
      };
    };
    const SequenceLayout layout = c.layout();
    EXPECT_TRUE(near(cut.join(evaluate(op(&exchange, cut.layout()), rows)[0]),
                     evaluate(op(nullptr, layout), x)[0], 1e-10));
    EXPECT_EQ(exchange.num_forwards, 1);
  }
}

TEST(Span, AnInitialStateOrAGradientOfTheFinalOneIsRefused) {
  const LinearCase c{.name = "", .T = 12};
  const SequenceLayout layout = c.layout();
  FoldingExchange exchange(layout, {{0}});
  const std::vector<Tensor> x = operands_of(c, kScalarDecay);
  std::vector<Var> in;
  for (const Tensor& t : x) in.push_back(t.defined() ? Var(t, true) : Var());
  const LinearStateOptions options{.scale = 1, .chunk = 4, .exchange = &exchange};
  Tape tape(test_context());
  LinearOperands<Var> operands = operand_list(in);
  EXPECT_THROW(scalar_decay(tape, operands, layout, options), Error);
  operands.initial_state = {};
  const Var last = scalar_decay(tape, operands, layout, options).final_state;
  EXPECT_THROW(tape.backward({last}, {x[5]}), Error);
}

}  // namespace
}  // namespace spanwise::testing
