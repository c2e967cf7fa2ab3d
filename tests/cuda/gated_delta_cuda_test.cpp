#include "core/ops/gated_delta.h"

#include <cmath>

#include "tests/testing/cuda_testing.h"
#include "tests/testing/folding_exchange.h"
#include "tests/testing/linear_state_testing.h"

namespace spanwise {
namespace {

using namespace testing;

std::vector<CudaOperand> cuda_operands(const std::vector<Tensor>& x, DType dtype) {
  const CudaBounds bounds = dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
  std::vector<CudaOperand> operands;
  for (size_t i = 0; i < x.size(); ++i) {
    const bool gate = i == 3 || i == 4;
    operands.push_back({.value = x[i],
                        .dtype = i < 3 ? dtype : DType::kF32,
                        .gradient_bound = gate ? bounds.gate : bounds.gradient});
  }
  return operands;
}

OpFunction op_of_case(const LinearCase& c) {
  return [c](Tape& tape, const std::vector<Var>& x) {
    const LinearStateResult r =
        gated_delta(tape, operand_list(x), c.layout(), {.scale = c.scale(), .chunk = c.chunk});
    return std::vector<Var>{r.out, r.final_state};
  };
}

void check_case(const LinearCase& c, DType dtype) {
  SCOPED_TRACE(std::string(c.name) +
               fmt::format(" {} T={} K={} V={} decay {}", name_of(dtype), c.T, c.K, c.V, c.gate_scale));
  const CudaBounds bounds = dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
  check_on_cuda(op_of_case(c), cuda_operands(operands_of(c, kGatedDelta), dtype),
                {bounds.output, bounds.output});
}

LinearCase shape(const char* name, int64_t T, int64_t K, int64_t V) {
  return {.name = name, .T = T, .H = 2, .HV = 2, .K = K, .V = V, .chunk = 64};
}

TEST(CudaGatedDelta, EveryLengthWithSlowAndFastDecay) {
  for (const int64_t T : {1, 63, 64, 100, 1024, 2000}) {
    for (const double decay : {0.01, 0.3, 4.0}) {
      LinearCase c = shape("length", T, 128, 128);
      c.gate_scale = decay;
      check_case(c, DType::kBF16);
    }
  }
}

TEST(CudaGatedDelta, EveryWidthOfKeysAndValues) {
  for (const int64_t K : {64, 128, 256}) {
    for (const int64_t V : {64, 128, 256}) check_case(shape("width", 200, K, V), DType::kBF16);
  }
}

TEST(CudaGatedDelta, DocumentsRowsAndSharedKeyHeads) {
  LinearCase c = shape("documents", 300, 128, 64);
  c.B = 3;
  c.HV = 4;
  c.starts = {1, 2, 66, 130, 299, 300, 364, 365, 450, 700};
  check_case(c, DType::kBF16);
  c.initial = false;
  check_case(c, DType::kBF16);
}

// More documents than a grid's second axis takes blocks.
TEST(CudaGatedDelta, F32TakesManyDocuments) {
  LinearCase c = shape("many documents", 66000, 8, 8);
  c.H = c.HV = 1;
  c.initial = false;
  c.starts.clear();
  for (int64_t t = 0; t < c.T; ++t) c.starts.push_back(t);
  check_case(c, DType::kF32);
}

// Few heads and long segments: parts of them are scanned side by side.
TEST(CudaGatedDelta, LongDocumentsScannedInParts) {
  LinearCase c = shape("parts", 2000, 128, 64);
  c.B = 2;
  c.starts = {5, 2700};
  for (const double decay : {0.0003, 0.05}) {
    c.gate_scale = decay;
    check_case(c, DType::kBF16);
  }
}

// Decays that parts pass on whole, that fade within a part, and that fade within a chunk; none.
TEST(CudaGatedDelta, PartsOfEveryWidthAndDecay) {
  for (const int64_t K : {64, 128, 256}) {
    LinearCase c = shape("parts", K == 128 ? 5000 : 2100, K, K == 64 ? 128 : 64);
    c.H = c.HV = 1;
    for (const double decay : {1e-5, 0.003, 0.2, 4.0}) {
      c.gate_scale = decay;
      check_case(c, DType::kBF16);
    }
    c.gate = Gate::kNone;
    c.max_beta = 0.5;
    check_case(c, DType::kBF16);
    c.initial = false;
    check_case(c, DType::kBF16);
  }
}

TEST(CudaGatedDelta, OddDecaysAndBetas) {
  LinearCase none = shape("no decay", 200, 128, 128);
  none.gate = Gate::kNone;
  check_case(none, DType::kBF16);
  LinearCase resets = shape("resets by decay", 200, 128, 128);
  resets.gate_scale = 0.05;
  resets.reset_period = 7;
  check_case(resets, DType::kBF16);
  LinearCase negative = shape("beta up to 2", 200, 128, 128);
  negative.gate_scale = 0.02;
  negative.max_beta = 2;
  check_case(negative, DType::kBF16);
}

// Keys that come again at once with beta near 1: the chunk's system is as far from the identity as it gets.
TEST(CudaGatedDelta, RepeatedKeysWrittenWhole) {
  LinearCase c = shape("repeated keys", 256, 128, 128);
  c.gate_scale = 0.001;
  std::vector<Tensor> x = operands_of(c, kGatedDelta);
  const int64_t width = c.H * c.K;
  for (int64_t t = 0; t < c.T; ++t) {
    std::copy_n(x[1].data<double>() + t % 3 * width, width, x[1].data<double>() + t * width);
    for (int64_t j = 0; j < c.HV; ++j) x[4].data<double>()[t * c.HV + j] = 0.999;
  }
  std::vector<CudaOperand> operands = cuda_operands(x, DType::kBF16);
  for (CudaOperand& o : operands) o.gradient_bound *= 3;  // gradients cancel almost wholly here
  check_on_cuda(op_of_case(c), operands, {kBoundsBF16.output, kBoundsBF16.output});
}

TEST(CudaGatedDelta, ReadsColumnBlocks) {
  for (const int64_t wider : {64, 3}) {
    const LinearCase c = shape("column blocks", 130, 64, 64);
    std::vector<CudaOperand> operands = cuda_operands(operands_of(c, kGatedDelta), DType::kBF16);
    for (size_t i = 0; i < 5; ++i) {
      operands[i].column_block = wider;
      operands[i].block_dims = i < 3 ? 2 : 1;
    }
    check_on_cuda(op_of_case(c), operands, {kBoundsBF16.output, kBoundsBF16.output});
  }
}

TEST(CudaGatedDelta, Fp32TakesEveryCaseOfTheFamily) {
  for (LinearCase c : linear_cases()) {
    if (c.gate != Gate::kPerHead) check_case(c, DType::kF32);
  }
  check_case(shape("wide", 100, 256, 40), DType::kF32);
}

TEST(CudaGatedDelta, StepsEqualTheChunkedResult) {
  const LinearCase c = shape("steps", 20, 128, 64);
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const std::vector<Tensor> x = operands_of(c, kGatedDelta);
    std::vector<Tensor> gpu, oracle;
    for (size_t i = 0; i < x.size(); ++i) {
      gpu.push_back(to_cuda(x[i], i < 3 ? dtype : DType::kF32));
      oracle.push_back(to_cpu64(gpu.back()));
    }
    const std::vector<Tensor> expected = token_recurrence(c, oracle);
    const Tensor state = gpu[5];
    const auto token = [&](const Tensor& t, int64_t i) {
      std::vector<int64_t> dims = t.shape().to_vector();
      const int64_t row = t.numel() / c.T;
      dims[1] = 1;
      return t.slice_flat(i * row, Shape(dims));
    };
    for (int64_t t = 0; t < c.T; ++t) {
      const Tensor out = linear_state_step(cuda_context(), kGatedDelta,
                                           {.q = token(gpu[0], t),
                                            .k = token(gpu[1], t),
                                            .v = token(gpu[2], t),
                                            .log_decay = token(gpu[3], t),
                                            .beta = token(gpu[4], t),
                                            .initial_state = state},
                                           c.scale());
      EXPECT_LE(rms_ratio(out, token(expected[0], t)), dtype == DType::kBF16 ? kBoundsBF16.output : 1e-5)
          << t;
    }
    EXPECT_LE(rms_ratio(state, expected[1]), 1e-5);
  }
}

/// Folds the summaries of GPU rows on the CPU.
class CudaFoldingExchange : public SpanExchange {
 public:
  explicit CudaFoldingExchange(FoldingExchange folding) : folding_(std::move(folding)) {}
  std::unique_ptr<Forward> start_forward(const SpanSummary& s) override {
    return std::make_unique<Forwarding>(folding_.start_forward(
        {.transition = {s.transition.kind, to_cpu64(s.transition.values)}, .state = to_cpu64(s.state)}));
  }
  std::unique_ptr<Backward> start_backward(const Tensor& d,
                                           const std::shared_ptr<const void>& saved) override {
    return std::make_unique<Backwarding>(folding_.start_backward(to_cpu64(d), saved));
  }

 private:
  struct Forwarding : Forward {
    explicit Forwarding(std::unique_ptr<Forward> f) : folded(std::move(f)) {}
    std::unique_ptr<Forward> folded;
    IncomingState wait() override {
      IncomingState incoming = folded->wait();
      return {to_cuda(incoming.state, DType::kF32), incoming.saved};
    }
  };
  struct Backwarding : Backward {
    explicit Backwarding(std::unique_ptr<Backward> f) : folded(std::move(f)) {}
    std::unique_ptr<Backward> folded;
    Tensor wait() override { return to_cuda(folded->wait(), DType::kF32); }
  };
  FoldingExchange folding_;
};

void check_spans(const SpanCut& cut, LinearCase c, const std::vector<DType>& dtypes) {
  SCOPED_TRACE(fmt::format("{} decay {}", c.name, c.gate_scale));
  c.T = cut.layout().length();
  c.B = cut.layout().batch();
  c.initial = false;
  const auto exchanges = std::make_shared<std::vector<std::unique_ptr<SpanExchange>>>();
  const OpFunction op = [&](Tape& tape, const std::vector<Var>& x) {
    FoldingExchange folding(cut.layout(), cut.chains());
    if (tape.context().device() == Device::kCUDA) {
      exchanges->push_back(std::make_unique<CudaFoldingExchange>(std::move(folding)));
    } else {
      exchanges->push_back(std::make_unique<FoldingExchange>(std::move(folding)));
    }
    LinearOperands<Var> operands = operand_list(x);
    operands.initial_state = {};
    return std::vector<Var>{
        gated_delta(tape, operands, cut.layout(), {.scale = c.scale(), .exchange = exchanges->back().get()})
            .out};
  };
  for (const DType dtype : dtypes) {
    SCOPED_TRACE(name_of(dtype));
    const CudaBounds bounds = dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
    check_on_cuda(op, cuda_operands(operands_of(c, kGatedDelta), dtype), {bounds.output});
  }
}

TEST(CudaGatedDelta, SpansEqualThoseOfTheCpu) {
  LinearCase c = shape("spans", 1000, 128, 128);
  c.gate_scale = 0.01;
  check_spans(SpanCut(2, 1000, 4, {0, 10, 260, 1000, 1300, 1301}, SpanCut::Order::kZigzag), c,
              {DType::kBF16, DType::kF32});
}

// Rows long enough to be cut: that pass the state on, that end or start a document in the middle, and both.
TEST(CudaGatedDelta, SpansScannedInParts) {
  LinearCase c = shape("spans in parts", 0, 128, 64);
  c.H = c.HV = 1;
  for (const double decay : {1e-5, 0.001, 0.3}) {
    c.gate_scale = decay;
    check_spans(SpanCut(1, 6000, 4, {0}, SpanCut::Order::kInRow), c, {DType::kBF16});
    check_spans(SpanCut(1, 7000, 2, {0, 5200}, SpanCut::Order::kInRow), c, {DType::kBF16});
    check_spans(SpanCut(1, 7000, 2, {0, 2100, 5200, 5300}, SpanCut::Order::kInRow), c, {DType::kBF16});
  }
}

}  // namespace
}  // namespace spanwise
