#include "parallel/param_store.h"

#include <cmath>

#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/scalars.h"
#include "parallel/gradient_reducer.h"
#include "parallel/sharded_adamw.h"
#include "parallel/whole_params.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kHidden = 48, kVocab = 100, kRows = 64;

/// Two matrices with a bias between them: a model of linear layers and a loss.
struct TwoLayers : Module {
  Param first, bias, head;
  TwoLayers() {
    first = {{kHidden, kHidden}, init::normal(0.15)};
    bias = {{kHidden}, init::uniform(-1, 1), false};
    head = {{kVocab, kHidden}, init::normal(0.15)};
  }
  void visit(const std::string& prefix, const ParamVisitor& visitor) override {
    visitor(prefix + "first", first);
    visitor(prefix + "bias", bias);
    visitor(prefix + "head", head);
  }
  Var loss(Tape& tape, const Var& x) const {
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < kRows; ++i) labels.push_back(int32_t(i * 37 % kVocab));
    return linear_cross_entropy(tape, linear(tape, x, first, bias), head, labels, {.loss_scale = 1.0 / kRows})
        .loss;
  }
};

struct Training {
  Training(Context& ctx, DType dtype)
      : params(ctx, module, dtype, 5), reducer(params), optimizer(params), input(make_input(dtype)) {}

  /// Loss and gradient norm of a step of `passes` micro-batches.
  std::pair<double, double> step(int number, int passes) {
    Context& ctx = params.context();
    std::vector<Tensor> scalars;
    for (int pass = 0; pass < passes; ++pass) {
      if (pass + 1 == passes) reducer.expect_last_backward();
      Tape tape(ctx);
      const Var loss = module.loss(tape, Var(input));
      scalars.push_back(loss.value());
      tape.backward(loss);
    }
    reducer.finish();
    scalars.push_back(optimizer.squared_grad_norm());
    optimizer.step({.lr = 1e-2, .weight_decay = 0.1, .step = number}, {scalars.back(), 0.5});
    const std::vector<double> values = read_scalars(ctx, scalars);
    return {values.front(), std::sqrt(values.back())};
  }

  Tensor make_input(DType dtype) {
    const Tensor x = random_tensor({kRows, kHidden}, DType::kF64, "x");
    if (params.context().device() == Device::kCPU) return cast(x, dtype);
    return to_cuda(x, dtype);
  }

  TwoLayers module;
  ParamStore params;
  GradientReducer reducer;
  ShardedAdamW optimizer;
  Tensor input;
};

std::vector<double> whole(const ParamStore& params, const Tensor& flat, int entry) {
  return to_doubles(gather_piece(params, flat, entry, {0, params.entries()[entry].param->numel()}));
}

TEST(ParamStoreCuda, InitialMastersAreTheCpusBits) {
  Training gpu(cuda_context(), DType::kBF16), cpu(test_context(), DType::kF32);
  for (int e = 0; e < 3; ++e)
    EXPECT_EQ(whole(gpu.params, gpu.params.values(), e), whole(cpu.params, cpu.params.values(), e));
  EXPECT_EQ(gpu.module.first.var.value().dtype(), DType::kBF16);
  EXPECT_EQ(gpu.module.bias.var.value().dtype(), DType::kF32);
}

TEST(ParamStoreCuda, StepsFollowTheCpu) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    SCOPED_TRACE(name_of(dtype));
    Training gpu(cuda_context(), dtype), cpu(test_context(), DType::kF32);
    for (int s = 1; s <= 5; ++s) {
      const auto [loss, norm] = gpu.step(s, 2);
      const auto [expected_loss, expected_norm] = cpu.step(s, 2);
      const double bound = dtype == DType::kF32 ? 1e-5 : 0.01;
      EXPECT_NEAR(loss, expected_loss, bound * expected_loss) << "step " << s;
      EXPECT_NEAR(norm, expected_norm, bound * expected_norm) << "step " << s;
    }
    if (dtype == DType::kBF16) continue;
    for (int e = 0; e < 3; ++e) {
      const std::vector<double> got = whole(gpu.params, gpu.params.values(), e),
                                expected = whole(cpu.params, cpu.params.values(), e);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-3) << e << " " << i;
    }
  }
}

TEST(ParamStoreCuda, AStepWaitsForTheGpuOnceAndRepeatsBitByBit) {
  Training first(cuda_context(), DType::kBF16), second(cuda_context(), DType::kBF16);
  for (int s = 1; s <= 3; ++s) {
    const int64_t before = cuda_context().memory().host_waits;
    const auto one = first.step(s, 3);
    EXPECT_EQ(cuda_context().memory().host_waits, before + 1);
    EXPECT_EQ(one, second.step(s, 3));
  }
  for (int e = 0; e < 3; ++e)
    EXPECT_EQ(whole(first.params, first.params.values(), e), whole(second.params, second.params.values(), e));
}

TEST(ParamStoreCuda, AStepTakesNothingFromTheGpuInTheSteadyState) {
  Training training(cuda_context(), DType::kBF16);
  for (int s = 1; s <= 2; ++s) training.step(s, 2);
  const MemoryStats before = cuda_context().memory();
  for (int s = 3; s <= 6; ++s) training.step(s, 2);
  EXPECT_EQ(cuda_context().memory().reserved_bytes, before.reserved_bytes);
  EXPECT_EQ(cuda_context().memory().live_bytes, before.live_bytes);
}

TEST(ParamStoreCuda, PiecesPassBetweenBF16OnAGpuAndF32OnTheCpuBitByBit) {
  Training gpu(cuda_context(), DType::kBF16), cpu(test_context(), DType::kF32);
  for (int s = 1; s <= 2; ++s) gpu.step(s, 1);
  const auto copy = [](const Training& from, const Training& to) {
    const std::pair<Tensor, Tensor> buffers[] = {
        {from.params.values(), to.params.values()},
        {from.optimizer.first_moment(), to.optimizer.first_moment()},
        {from.optimizer.second_moment(), to.optimizer.second_moment()}};
    for (const auto& [source, target] : buffers) {
      for (int e = 0; e < 3; ++e) {
        const int64_t numel = from.params.entries()[e].param->numel();
        for (int64_t begin = 0; begin < numel; begin += 1000) {
          const FlatRange piece{begin, std::min(begin + 1000, numel)};
          scatter_piece(to.params, target, e, piece, gather_piece(from.params, source, e, piece));
        }
      }
    }
    to.params.publish_values();
  };
  copy(gpu, cpu);
  Training again(cuda_context(), DType::kBF16);
  copy(cpu, again);
  // The copies that the model reads are there, too.
  EXPECT_EQ(gpu.step(3, 1), again.step(3, 1));
  for (int e = 0; e < 3; ++e)
    EXPECT_EQ(whole(gpu.params, gpu.params.values(), e), whole(again.params, again.params.values(), e));
}

}  // namespace
}  // namespace spanwise::testing
