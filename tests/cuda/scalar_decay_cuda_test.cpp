#include "core/ops/scalar_decay.h"

#include "tests/testing/cuda_testing.h"
#include "tests/testing/folding_exchange.h"
#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

Tensor head_log_decay_in(Context& ctx, const LinearCase& c) {
  const Tensor g = head_log_decay_of(c, DType::kF64);
  return ctx.device() == Device::kCUDA ? to_cuda(g, DType::kF32) : g;
}

/// Operands in the order of operands_of, without beta.
LinearStateResult run(const LinearCase& c, Tape& tape, const std::vector<Var>& x,
                      const SequenceLayout& layout, SpanExchange* exchange = nullptr) {
  LinearOperands<Var> operands{.q = x[0], .k = x[1], .v = x[2], .log_decay = x[3]};
  if (c.gate == Gate::kPerHead) operands.head_log_decay = Var(head_log_decay_in(tape.context(), c));
  if (!exchange) operands.initial_state = x[4];
  return scalar_decay(tape, operands, layout, {.scale = c.scale(), .exchange = exchange});
}

std::vector<Tensor> values_of(const LinearCase& c) {
  std::vector<Tensor> x = operands_of(c, kScalarDecay);
  x.erase(x.begin() + 4);
  return x;
}

CudaBounds bounds_of(DType dtype) {
  return dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
}

void check_case(const LinearCase& c, DType dtype, int64_t column_block = 0) {
  SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), c.name));
  const CudaBounds bounds = bounds_of(dtype);
  const std::vector<Tensor> x = values_of(c);
  const auto activation = [&](const Tensor& t) {
    return CudaOperand{t, dtype, bounds.gradient, column_block, 2};
  };
  check_on_cuda(
      [&c](Tape& tape, const std::vector<Var>& in) {
        const LinearStateResult r = run(c, tape, in, c.layout());
        return std::vector<Var>{r.out, r.final_state};
      },
      {activation(x[0]),
       activation(x[1]),
       activation(x[2]),
       {x[3], DType::kF32, bounds.gate, column_block, 1},
       {x[4], DType::kF32, bounds.gradient}},
      {bounds.output, bounds.output});
}

std::vector<LinearCase> bf16_cases() {
  return {
      {.name = "one token", .B = 4, .T = 1, .H = 4, .HV = 8, .K = 64, .V = 64},
      {.name = "63 tokens", .T = 63, .HV = 2, .K = 128, .V = 128},
      {.name = "100 tokens", .B = 2, .T = 100, .K = 128, .V = 128, .initial = false},
      {.name = "1024 tokens, K < V", .T = 1024, .K = 64, .V = 128},
      {.name = "2000 tokens", .T = 2000, .H = 2, .HV = 2, .K = 128, .V = 128},
      {.name = "2000 tokens, slow decay", .T = 2000, .K = 128, .V = 128, .gate_scale = 1e-4},
      {.name = "2000 tokens, fast decay", .T = 2000, .K = 128, .V = 128, .gate_scale = 8},
      {.name = "resets by decay", .T = 500, .K = 64, .V = 64, .gate_scale = 0.05, .reset_period = 37},
      {.name = "shared key heads, K > V", .B = 2, .T = 300, .H = 2, .HV = 6, .K = 128, .V = 64},
      {.name = "no decay", .T = 300, .HV = 2, .K = 128, .V = 128, .gate = Gate::kNone},
      {.name = "constant decay",
       .T = 300,
       .HV = 3,
       .K = 128,
       .V = 128,
       .gate = Gate::kPerHead,
       .gate_scale = 0.02},
      {.name = "256 wide", .T = 200, .K = 256, .V = 256, .gate_scale = 0.05},
      {.name = "K 256, V 64", .T = 200, .HV = 2, .K = 256, .V = 64},
      {.name = "K 64, V 256", .T = 200, .K = 64, .V = 256},
      {.name = "documents, first rows continue",
       .B = 3,
       .T = 300,
       .HV = 2,
       .K = 64,
       .V = 128,
       .starts = {1, 2, 18, 150, 214, 278, 299, 300, 364, 700, 899}},
      {.name = "documents of one token", .T = 6, .K = 64, .V = 64, .starts = {0, 1, 2, 3, 4, 5}},
      {.name = "documents, constant decay",
       .T = 400,
       .K = 128,
       .V = 128,
       .starts = {20, 153, 281},
       .gate = Gate::kPerHead,
       .gate_scale = 0.02},
      {.name = "few heads: pieces", .T = 8292, .K = 128, .V = 128, .gate_scale = 0.003},
      {.name = "few heads: pieces, slow decay", .T = 6000, .HV = 2, .K = 64, .V = 64, .gate_scale = 1e-4},
      {.name = "few heads: pieces of documents",
       .T = 9000,
       .K = 64,
       .V = 64,
       .starts = {100, 4500},
       .gate_scale = 0.001},
      {.name = "few heads: pieces, fading decay", .T = 8292, .K = 64, .V = 64, .gate_scale = 0.3},
      {.name = "few heads: pieces, fading constant decay",
       .T = 6100,
       .HV = 2,
       .K = 64,
       .V = 64,
       .starts = {7, 4500},
       .gate = Gate::kPerHead,
       .gate_scale = 0.2},
      {.name = "few heads: pieces, constant decay",
       .T = 5000,
       .H = 1,
       .HV = 2,
       .K = 64,
       .V = 128,
       .gate = Gate::kPerHead,
       .gate_scale = 1e-3},
  };
}

TEST(ScalarDecayCuda, BF16LiesWithinTheBoundsOfTheFP64Op) {
  for (const LinearCase& c : bf16_cases()) check_case(c, DType::kBF16);
}

TEST(ScalarDecayCuda, F32LiesWithinTheBoundsOfTheFP64Op) {
  for (const LinearCase& c : linear_cases()) check_case(c, DType::kF32);
  check_case({.name = "few heads: pieces", .T = 4500, .K = 64, .V = 32, .gate_scale = 0.003}, DType::kF32);
}

TEST(ScalarDecayCuda, ColumnBlocksEqualMatricesOfTheirOwn) {
  const LinearCase c{.name = "", .B = 2, .T = 130, .H = 1, .HV = 2, .K = 64, .V = 64};
  for (const int64_t extra : {16, 6}) {  // aligned to 16 bytes, and not
    for (const DType dtype : {DType::kBF16, DType::kF32}) check_case(c, dtype, extra);
  }
}

TEST(ScalarDecayCuda, StepsEqualTheScan) {
  const LinearCase c{.name = "", .B = 2, .T = 9, .H = 1, .HV = 2, .K = 128, .V = 64};
  const std::vector<Tensor> x = values_of(c);
  std::vector<Tensor> rounded;
  for (size_t i = 0; i < x.size(); ++i)
    rounded.push_back(to_cpu64(to_cuda(x[i], i < 3 ? DType::kBF16 : DType::kF32)));
  const std::vector<Tensor> expected = evaluate(
      [&](Tape& tape, const std::vector<Var>& in) {
        const LinearStateResult r = run(c, tape, in, c.layout());
        return std::vector<Var>{r.out, r.final_state};
      },
      rounded);
  // Token t of every row, from [B, T, ...].
  const auto token = [&](const Tensor& all, int64_t t, DType dtype) {
    std::vector<int64_t> dims = all.shape().to_vector();
    dims[1] = 1;
    const Tensor one = Tensor::empty(test_context(), Shape(dims), DType::kF64);
    const int64_t width = one.numel() / c.B;
    for (int64_t b = 0; b < c.B; ++b)
      std::copy_n(all.data<double>() + (b * c.T + t) * width, width, one.data<double>() + b * width);
    return to_cuda(one, dtype);
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const Tensor state = to_cuda(x[4], DType::kF32);
    for (int64_t t = 0; t < c.T; ++t) {
      const Tensor out = linear_state_step(cuda_context(), kScalarDecay,
                                           {.q = token(rounded[0], t, dtype),
                                            .k = token(rounded[1], t, dtype),
                                            .v = token(rounded[2], t, dtype),
                                            .log_decay = token(rounded[3], t, DType::kF32),
                                            .initial_state = state},
                                           c.scale());
      EXPECT_LE(rms_ratio(out, token(expected[0], t, DType::kF32)), bounds_of(dtype).output) << "token " << t;
    }
    EXPECT_LE(rms_ratio(state, expected[1]), kBoundsF32.output);
  }
}

TEST(ScalarDecayCuda, AnyDecayGivesFiniteResults) {
  const LinearCase c{.name = "", .T = 150, .K = 64, .V = 64};
  for (const double g : {-0.0, -1.0, -90.0, -1e4, -1e30, -std::numeric_limits<double>::infinity()}) {
    SCOPED_TRACE(g);
    const std::vector<Tensor> x = values_of(c);
    x[3].fill(g);
    Tape tape(cuda_context());
    std::vector<Var> in;
    for (size_t i = 0; i < x.size(); ++i)
      in.emplace_back(to_cuda(x[i], i < 3 ? DType::kBF16 : DType::kF32), true);
    const LinearStateResult r = run(c, tape, in, c.layout());
    tape.backward({r.out}, {to_cuda(random_tensor({1, c.T, 1, c.V}, DType::kF64, "dout"), DType::kBF16)});
    std::vector<Tensor> all{r.out.value(), r.final_state.value()};
    for (const Var& v : in) all.push_back(v.grad());
    for (size_t i = 0; i < all.size(); ++i) {
      for (const double value : to_doubles(to_cpu64(all[i])))
        ASSERT_TRUE(std::isfinite(value)) << "result " << i;
    }
  }
}

TEST(ScalarDecayCuda, UnsupportedWidthsAreNamed) {
  const LinearCase c{.name = "", .T = 5, .K = 96, .V = 64, .initial = false};
  Tape tape(cuda_context());
  std::vector<Var> in;
  for (const Tensor& t : values_of(c)) in.emplace_back(t.defined() ? Var(to_cuda(t, DType::kBF16)) : Var());
  in[3] = Var();
  EXPECT_THROW(run(c, tape, in, c.layout()), Error);
}

/// FoldingExchange for rows on the GPU.
class CudaFolding : public SpanExchange {
 public:
  CudaFolding(const SequenceLayout& layout, std::vector<std::vector<int64_t>> chains)
      : fold(layout, std::move(chains)) {}
  FoldingExchange fold;

  std::unique_ptr<Forward> start_forward(const SpanSummary& s) override {
    return std::make_unique<Forwarding>(fold.start_forward(
        {.transition = {s.transition.kind, on_cpu(s.transition.values)}, .state = on_cpu(s.state)}));
  }
  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>& saved) override {
    return std::make_unique<Backwarding>(fold.start_backward(on_cpu(dstate_in), saved));
  }

 private:
  static Tensor on_cpu(const Tensor& t) { return t.defined() ? cast(to_cpu64(t), DType::kF32) : t; }
  struct Forwarding : Forward {
    explicit Forwarding(std::unique_ptr<Forward> f) : started(std::move(f)) {}
    std::unique_ptr<Forward> started;
    IncomingState wait() override {
      IncomingState incoming = started->wait();
      incoming.state = to_cuda(incoming.state, DType::kF32);
      return incoming;
    }
  };
  struct Backwarding : Backward {
    explicit Backwarding(std::unique_ptr<Backward> b) : started(std::move(b)) {}
    std::unique_ptr<Backward> started;
    Tensor wait() override { return to_cuda(started->wait(), DType::kF32); }
  };
};

void expect_spans_equal_whole(const LinearCase& c, DType dtype, int64_t num_spans) {
  SCOPED_TRACE(fmt::format("{} {}, {} spans", name_of(dtype), c.name, num_spans));
  std::vector<Tensor> x = values_of(c);
  for (size_t i = 0; i < 4; ++i) x[i] = to_cpu64(to_cuda(x[i], i < 3 ? dtype : DType::kF32));
  x[4] = Tensor();
  const Tensor dout =
      to_cpu64(to_cuda(random_tensor({c.B, c.T, c.HV, c.V}, DType::kF64, "dout"), DType::kBF16));
  const SpanCut cut(c.B, c.T, num_spans, c.starts, SpanCut::Order::kInRow);

  std::vector<Var> whole, rows;
  for (size_t i = 0; i < x.size(); ++i) {
    whole.push_back(x[i].defined() ? Var(x[i], true) : Var());
    rows.push_back(x[i].defined()
                       ? Var(to_cuda(cut.cut(x[i], i == 3 ? -1 : 1), i < 3 ? dtype : DType::kF32), true)
                       : Var());
  }
  Tape whole_tape(test_context()), tape(cuda_context());
  const Var expected = run(c, whole_tape, whole, c.layout()).out;
  whole_tape.backward({expected}, {dout});
  CudaFolding exchange(cut.layout(), cut.chains());
  const Var out = run(c, tape, rows, cut.layout(), &exchange).out;
  tape.backward({out}, {to_cuda(cut.cut(dout), dtype)});

  const CudaBounds bounds = bounds_of(dtype);
  EXPECT_LE(rms_ratio(cut.join(to_cpu64(out.value())), expected.value()), bounds.output);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!x[i].defined()) continue;
    EXPECT_LE(rms_ratio(cut.join(to_cpu64(rows[i].grad())), whole[i].grad()),
              i == 3 ? bounds.gate : bounds.gradient)
        << "operand " << i;
  }
}

TEST(ScalarDecayCuda, SpansEqualTheWholeSequence) {
  const std::vector<LinearCase> cases{
      {.name = "one document", .T = 500, .HV = 2, .K = 64, .V = 128, .gate_scale = 0.02},
      {.name = "no decay", .T = 300, .K = 64, .V = 64, .gate = Gate::kNone},
      {.name = "constant decay",
       .T = 300,
       .HV = 2,
       .K = 64,
       .V = 64,
       .gate = Gate::kPerHead,
       .gate_scale = 0.01},
      {.name = "documents, shared key heads",
       .B = 2,
       .T = 400,
       .H = 1,
       .HV = 2,
       .K = 128,
       .V = 64,
       .starts = {0, 130, 131, 250, 400, 777}},
  };
  for (const LinearCase& c : cases) {
    for (const int64_t spans : {1, 2, 3}) expect_spans_equal_whole(c, DType::kBF16, spans);
    expect_spans_equal_whole(c, DType::kF32, 3);
  }
  // Rows long enough to be cut into pieces.
  LinearCase c{.name = "pieces", .T = 9000, .K = 64, .V = 64};
  for (const double decay : {1e-5, 0.001, 0.3}) {
    c.gate_scale = decay;
    expect_spans_equal_whole(c, DType::kBF16, 2);
  }
}

}  // namespace
}  // namespace spanwise::testing
