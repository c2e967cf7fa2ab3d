// Instances of kernels that no other test launches, for tests/gpu_sanitize.sh has all run: the smallest
// operands that choose each.

#include <cmath>

#include "core/ops/block_copy.h"
#include "core/ops/convert.h"
#include "core/ops/gated_delta.h"
#include "core/ops/gated_rms_norm.h"
#include "core/ops/gates.h"
#include "core/ops/l2_norm.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/rms_norm.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/short_conv.h"
#include "core/upload.h"
#include "tests/testing/cuda_precisions.h"
#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

/// Every shape of common/row_kernel.cuh: rows that are aligned to 16 bytes, and rows that are not.
std::vector<int64_t> row_widths(const CudaPrecision& p) {
  std::vector<int64_t> widths{31, 201, 3001, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
  if (p.dtype == DType::kBF16) widths.push_back(16384);
  return widths;
}

TEST(CudaKernelInstances, NormsOfEveryRowShape) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t width : row_widths(p)) {
      SCOPED_TRACE(fmt::format("{} width {}", name_of(p.dtype), width));
      const CudaOperand x = activation_operand(normal64({7, width}, "x"), p),
                        y = activation_operand(normal64({7, width}, "y"), p),
                        weight = vector_operand(normal64({width}, "w", 0.3, 1.0), p);
      check_on_cuda(
          [](Tape& tape, const std::vector<Var>& v) {
            const AddRmsNorm out = add_rms_norm(tape, v[0], v[1], v[2], 1e-6);
            return std::vector<Var>{out.sum, out.normed};
          },
          {x, y, weight}, {p.bounds.output, p.bounds.output});
      for (const GateOrder order : {GateOrder::kNormThenGate, GateOrder::kGateThenNorm}) {
        check_on_cuda(
            [order](Tape& tape, const std::vector<Var>& v) {
              return std::vector<Var>{gated_rms_norm(tape, v[0], v[1], v[2], 1e-5, {.order = order})};
            },
            {x, y, weight}, {p.bounds.output});
      }
      const CudaOperand heads = activation_operand(normal64({1, 3, 2, width}, "x"), p);
      check_on_cuda(
          [](Tape& tape, const std::vector<Var>& v) { return std::vector<Var>{l2_norm(tape, v[0], 1e-6)}; },
          {heads}, {p.bounds.output});
      check_on_cuda(
          [](Tape& tape, const std::vector<Var>& v) {
            return std::vector<Var>{head_skip(tape, v[0], v[1], v[2])};
          },
          {heads,
           activation_operand(normal64({1, 3, 2, width}, "z"), p),
           {normal64({2}, "D"), DType::kF32, p.bounds.gate}},
          {p.bounds.output});
    }
  }
}

TEST(CudaKernelInstances, ConvolutionsOfRowsThatAreNotAligned) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t width : {2, 3, 4}) {
      for (const Activation activation : {Activation::kNone, Activation::kSiLU}) {
        SCOPED_TRACE(fmt::format("{} width {} activation {}", name_of(p.dtype), width, int(activation)));
        const OpFunction op = [=](Tape& tape, const std::vector<Var>& v) {
          return std::vector<Var>{
              short_conv(tape, v[0], v[1], Var(), SequenceLayout(1, 37, {20}), activation, Var()).out};
        };
        check_on_cuda(op,
                      {activation_operand(normal64({1, 37, 7}, "x"), p),
                       vector_operand(normal64({7, 1, width}, "weight", 0.5), p)},
                      {p.bounds.output});
      }
    }
  }
}

TEST(CudaKernelInstances, ConversionsBothWays) {
  Context& ctx = cuda_context();
  const Tensor values = to_cuda(normal64({1001}, "x"), DType::kF32),
               rounded = Tensor::empty(ctx, {1001}, DType::kBF16),
               back = Tensor::empty(ctx, {1001}, DType::kF32);
  convert(ctx, values, rounded);
  convert(ctx, rounded, back);
  EXPECT_EQ(to_doubles(to_cpu64(back)), to_doubles(to_cpu64(to_cuda(to_cpu64(values), DType::kBF16))));
}

TEST(CudaKernelInstances, BlocksOfEightBytesAndOfOne) {
  Context& ctx = cuda_context();
  std::vector<uint8_t> source(600), target(600, 0), expected = target;
  for (size_t i = 0; i < source.size(); ++i) source[i] = uint8_t(i * 37 + 5);
  // Rows, width, from, its stride, to, its stride.
  for (const MovedBlock& b : {MovedBlock{5, 24, 8, 40, 16, 56}, {3, 7, 301, 11, 303, 13}}) {
    const Tensor from = upload(ctx, source), to = upload(ctx, target);
    copy_blocks(ctx, from, to, {b});
    expected = target;
    for (int64_t r = 0; r < b.rows; ++r)
      std::copy_n(source.begin() + b.from + r * b.from_stride, b.width,
                  expected.begin() + b.to + r * b.to_stride);
    std::vector<uint8_t> got(600);
    to.copy_to_host(got.data(), got.size());
    EXPECT_EQ(got, expected);
  }
}

// Larger products try cuBLASLt's algorithms and compare their results.
TEST(CudaKernelInstances, LinearWorthMeasuring) {
  Context& ctx = cuda_context();
  const auto operand = [&](const char* name) {
    return Var(to_cuda(random_tensor({1792, 1792}, DType::kF64, name, 0.02), DType::kBF16), true);
  };
  Tape tape(ctx);
  const Var x = operand("x"), w = operand("w"), y = linear(tape, x, w);
  tape.backward({y}, {x.value()});
  EXPECT_GT(rms_ratio(w.grad(), Tensor::zeros(ctx, w.grad().shape(), w.grad().dtype())), 0);
}

TEST(CudaKernelInstances, CrossEntropyWithoutGradients) {
  const DimPart whole,
      part{.begin = 0, .whole = 180, .sum = [](const Tensor&) {}, .max = [](const Tensor&) {}};
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const DimPart& vocabulary : {whole, part}) {
      const auto loss = [&](Context& ctx, const Tensor& x, const Tensor& w) {
        Tape tape(ctx, Tape::Mode::kInference);
        const Var value =
            linear_cross_entropy(tape, Var(x), Var(w), std::vector<int32_t>(30, 5), {.part = vocabulary})
                .loss;
        return to_doubles(to_cpu64(value.value()))[0];
      };
      const Tensor x = to_cuda(normal64({30, 16}, "x"), dtype), w = to_cuda(normal64({90, 16}, "w"), dtype);
      const double expected = loss(test_context(), to_cpu64(x), to_cpu64(w));
      EXPECT_NEAR(loss(cuda_context(), x, w), expected, 0.005 * expected);
    }
  }
}

std::vector<CudaOperand> recurrent_operands(int64_t tokens, int64_t key_dim, DType dtype, bool delta_rule) {
  const CudaBounds bounds = dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
  const double unit = 1 / std::sqrt(double(key_dim));
  const auto gate = [&](const char* name) {
    const Tensor t = normal64({1, tokens, 1}, name, 0.3);
    for (int64_t i = 0; i < tokens; ++i)
      t.data<double>()[i] = *name == 'b' ? 0.5 + 0.1 * t.data<double>()[i] : -std::abs(t.data<double>()[i]);
    return CudaOperand{t, DType::kF32, bounds.gate};
  };
  std::vector<CudaOperand> operands{{normal64({1, tokens, 1, key_dim}, "q", unit), dtype, bounds.gradient},
                                    {normal64({1, tokens, 1, key_dim}, "k", unit), dtype, bounds.gradient},
                                    {normal64({1, tokens, 1, 64}, "v"), dtype, bounds.gradient},
                                    gate("decay")};
  if (delta_rule) operands.push_back(gate("beta"));
  return operands;
}

// Few heads: pieces whose states alone are scanned first.
TEST(CudaKernelInstances, LongRowsOfEveryKeyWidth) {
  for (const int64_t key_dim : {64, 128, 256}) {
    SCOPED_TRACE(key_dim);
    check_on_cuda(
        [](Tape& tape, const std::vector<Var>& x) {
          return std::vector<Var>{
              gated_delta(tape, operand_list(x), SequenceLayout(1, 2100), {.scale = 1}).out};
        },
        recurrent_operands(2100, key_dim, DType::kBF16, true), {kBoundsBF16.output});
    check_on_cuda(
        [](Tape& tape, const std::vector<Var>& x) {
          return std::vector<Var>{
              scalar_decay(tape, operand_list(x), SequenceLayout(1, 4200), {.scale = 1}).out};
        },
        recurrent_operands(4200, key_dim, DType::kBF16, false), {kBoundsBF16.output});
  }
}

/// Gives zeros: what a summary is worth is other tests' matter.
class ZeroExchange : public SpanExchange {
 public:
  explicit ZeroExchange(Context& ctx) : ctx_(ctx) {}
  std::unique_ptr<Forward> start_forward(const SpanSummary& s) override {
    auto forward = std::make_unique<ZeroForward>();
    forward->zeros = Tensor::zeros(ctx_, s.state.shape(), s.state.dtype());
    return forward;
  }
  std::unique_ptr<Backward> start_backward(const Tensor& d, const std::shared_ptr<const void>&) override {
    auto backward = std::make_unique<ZeroBackward>();
    backward->zeros = Tensor::zeros(ctx_, d.shape(), d.dtype());
    return backward;
  }

 private:
  struct ZeroForward : Forward {
    Tensor zeros;
    IncomingState wait() override { return {zeros, nullptr}; }
  };
  struct ZeroBackward : Backward {
    Tensor zeros;
    Tensor wait() override { return zeros; }
  };
  Context& ctx_;
};

TEST(CudaKernelInstances, SpansOfEveryKeyWidth) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int64_t key_dim : {64, 128, 256}) {
      SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), key_dim));
      std::vector<std::unique_ptr<ZeroExchange>> exchanges;
      const auto options = [&](Tape& tape) {
        exchanges.push_back(std::make_unique<ZeroExchange>(tape.context()));
        return LinearStateOptions{.scale = 1, .exchange = exchanges.back().get()};
      };
      const SequenceLayout layout(1, 70);
      const CudaBounds bounds = dtype == DType::kBF16 ? kBoundsBF16 : kBoundsF32;
      check_on_cuda(
          [&](Tape& tape, const std::vector<Var>& x) {
            return std::vector<Var>{gated_delta(tape, operand_list(x), layout, options(tape)).out};
          },
          recurrent_operands(70, key_dim, dtype, true), {bounds.output});
      check_on_cuda(
          [&](Tape& tape, const std::vector<Var>& x) {
            return std::vector<Var>{scalar_decay(tape, operand_list(x), layout, options(tape)).out};
          },
          recurrent_operands(70, key_dim, dtype, false), {bounds.output});
    }
  }
}

TEST(CudaKernelInstances, StepsOfEveryKeyWidth) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int64_t key_dim : {64, 128, 256}) {
      SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), key_dim));
      const auto step = [&](Context& ctx, const Tensor& state) {
        const auto operand = [&](const Shape& shape, const char* name, DType gpu_dtype, double scale) {
          const Tensor t = to_cuda(normal64(shape, name, scale), gpu_dtype);
          return ctx.device() == Device::kCUDA ? t : to_cpu64(t);
        };
        return linear_state_step(ctx, kGatedDelta,
                                 {.q = operand({2, 1, 1, key_dim}, "q", dtype, 0.1),
                                  .k = operand({2, 1, 1, key_dim}, "k", dtype, 0.05),
                                  .v = operand({2, 1, 1, 64}, "v", dtype, 1),
                                  .log_decay = operand({2, 1, 1}, "decay", DType::kF32, 0.1),
                                  .beta = operand({2, 1, 1}, "beta", DType::kF32, 0.3),
                                  .initial_state = state},
                                 1.0);
      };
      const Tensor state = to_cuda(normal64({2, 1, key_dim, 64}, "state"), DType::kF32),
                   exact = to_cpu64(state);
      const double bound = dtype == DType::kBF16 ? kBoundsBF16.output : kBoundsF32.output;
      EXPECT_LE(rms_ratio(step(cuda_context(), state), step(test_context(), exact)), bound);
      EXPECT_LE(rms_ratio(state, exact), kBoundsF32.output);
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
