#include <cmath>
#include <limits>

#include "core/optim/adamw.h"
#include "core/optim/clip.h"
#include "core/optim/schedule.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

// A few blocks of elements, and an odd rest.
constexpr int64_t kSize = 40001;
const AdamWHyper kHyper{
    .lr = 0.02, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.3, .step = 1, .grad_scale = 0.5};

Tensor gradient(int64_t step, DType dtype) {
  return random_tensor({kSize}, dtype, fmt::format("gradient {}", step));
}

struct State {
  explicit State(DType dtype)
      : param(random_tensor({kSize}, dtype, "param")),
        m(Tensor::zeros(test_context(), {kSize}, dtype)),
        v(Tensor::zeros(test_context(), {kSize}, dtype)) {}
  Tensor param, m, v;
};

template <class T>
Tensor run_adamw(Context& ctx, int64_t steps) {
  State s(dtype_of<T>());
  AdamWHyper hyper = kHyper;
  for (hyper.step = 1; hyper.step <= steps; ++hyper.step) {
    const Tensor g = gradient(hyper.step, dtype_of<T>());
    adamw_step<T>(ctx, {s.param.data<T>(), g.data<T>(), s.m.data<T>(), s.v.data<T>(), kSize}, hyper);
  }
  return s.param;
}

// Written from the paper, one element at a time.
Tensor plain_adamw(int64_t steps) {
  const State s(DType::kF64);
  for (int64_t step = 1; step <= steps; ++step) {
    const auto grads = to_doubles(gradient(step, DType::kF64));
    for (int64_t i = 0; i < kSize; ++i) {
      double &p = s.param.data<double>()[i], &m = s.m.data<double>()[i], &v = s.v.data<double>()[i];
      const double g = grads[i] * 0.5;
      m = 0.8 * m + 0.2 * g;
      v = 0.95 * v + 0.05 * g * g;
      const double m_hat = m / (1 - std::pow(0.8, step)), v_hat = v / (1 - std::pow(0.95, step));
      p = p - 0.02 * (m_hat / (std::sqrt(v_hat) + 1e-6) + 0.3 * p);
    }
  }
  return s.param;
}

TEST(AdamW, EqualsTheScalarFormulaOverSeveralSteps) {
  EXPECT_TRUE(near(run_adamw<double>(test_context(), 5), plain_adamw(5), kTolerance64.value));
  EXPECT_TRUE(near(run_adamw<float>(test_context(), 5), plain_adamw(5), kTolerance32.value));
}

TEST(AdamW, ASplitSpanAndOneThreadGiveTheSameBits) {
  const Tensor whole = run_adamw<float>(test_context(), 3);
  Context one({.num_threads = 1});
  State s(DType::kF32);
  AdamWHyper hyper = kHyper;
  for (hyper.step = 1; hyper.step <= 3; ++hyper.step) {
    const Tensor g = gradient(hyper.step, DType::kF32);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 12345}, {12345, kSize}}) {
      adamw_step<float>(one,
                        {s.param.data<float>() + begin, g.data<float>() + begin, s.m.data<float>() + begin,
                         s.v.data<float>() + begin, end - begin},
                        hyper);
    }
  }
  EXPECT_TRUE(bitwise_equal(s.param, whole));
}

TEST(AdamW, WeightDecayActsWithoutAGradient) {
  State s(DType::kF64);
  const auto before = to_doubles(s.param);
  const Tensor none = Tensor::zeros(test_context(), {kSize}, DType::kF64);
  adamw_step<double>(
      test_context(),
      {s.param.data<double>(), none.data<double>(), s.m.data<double>(), s.v.data<double>(), kSize}, kHyper);
  for (int64_t i = 0; i < kSize; i += 997)
    EXPECT_DOUBLE_EQ(s.param.data<double>()[i], before[i] * (1 - 0.02 * 0.3));
}

TEST(AdamW, RefusesStepZero) {
  AdamWHyper hyper = kHyper;
  hyper.step = 0;
  EXPECT_THROW(adamw_step<float>(test_context(), {}, hyper), Error);
}

TEST(Schedule, WarmUpRisesLinearlyToThePeak) {
  for (ScheduleKind kind : {ScheduleKind::kConstant, ScheduleKind::kCosine, ScheduleKind::kWsd}) {
    const Schedule s{kind, 0.4, 0.1, 4, 20, 5};
    for (int64_t step = 1; step <= 4; ++step) EXPECT_DOUBLE_EQ(learning_rate(s, step), 0.1 * double(step));
  }
}

TEST(Schedule, ConstantStaysAtThePeak) {
  const Schedule s{.kind = ScheduleKind::kConstant, .peak = 0.4};
  for (int64_t step : {1, 2, 1000000}) EXPECT_EQ(learning_rate(s, step), 0.4);
}

TEST(Schedule, CosineFallsFromThePeakToTheLeastRate) {
  const Schedule s{ScheduleKind::kCosine, 0.4, 0.1, 4, 24, 0};
  EXPECT_DOUBLE_EQ(learning_rate(s, 14), 0.4 * 0.55);  // half-way
  EXPECT_DOUBLE_EQ(learning_rate(s, 9), 0.4 * (0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5))));
  for (int64_t step : {24, 25, 1000}) EXPECT_DOUBLE_EQ(learning_rate(s, step), 0.04);
  for (int64_t step = 4; step < 24; ++step) EXPECT_GT(learning_rate(s, step), learning_rate(s, step + 1));
}

TEST(Schedule, WsdIsStableThenFallsLinearly) {
  const Schedule s{ScheduleKind::kWsd, 0.4, 0.1, 4, 24, 10};
  for (int64_t step = 4; step <= 14; ++step) EXPECT_DOUBLE_EQ(learning_rate(s, step), 0.4);
  for (int64_t step = 14; step <= 24; ++step)
    EXPECT_DOUBLE_EQ(learning_rate(s, step), 0.4 * (1.0 - 0.09 * double(step - 14)));
  EXPECT_DOUBLE_EQ(learning_rate(s, 1000), 0.04);
}

TEST(Schedule, ARunShorterThanItsWarmUpEndsWhileTheRateRises) {
  for (ScheduleKind kind : {ScheduleKind::kCosine, ScheduleKind::kWsd}) {
    const Schedule s{kind, 0.4, 0.1, 100, 20, 0};
    EXPECT_NO_THROW(validate(s));
    EXPECT_DOUBLE_EQ(learning_rate(s, 20), 0.08);
  }
}

TEST(Schedule, ValidateNamesWhatIsWrong) {
  const Schedule good{ScheduleKind::kWsd, 0.4, 0.1, 4, 24, 20};
  EXPECT_NO_THROW(validate(good));
  const auto refused = [&](auto change) {
    Schedule s = good;
    change(s);
    EXPECT_THROW(validate(s), UserError);
  };
  refused([](Schedule& s) { s.peak = 0; });
  refused([](Schedule& s) { s.peak = std::numeric_limits<double>::quiet_NaN(); });
  refused([](Schedule& s) { s.min_ratio = 1.5; });
  refused([](Schedule& s) { s.warmup_steps = -1; });
  refused([](Schedule& s) { s.decay_steps = 21; });
  EXPECT_THROW(learning_rate(good, 0), Error);
}

TEST(Clip, SquaredNormEqualsThePlainSumForEveryThreadCount) {
  Context one({.num_threads = 1});
  const Tensor x = random_tensor({kSize}, DType::kF32, "x");
  double sum = 0;
  for (double v : to_doubles(x)) sum += v * v;
  const std::span<const float> values(x.data<float>(), size_t(kSize));
  const double norm = squared_norm(test_context(), values);
  EXPECT_NEAR(norm, sum, 1e-12 * sum);
  EXPECT_EQ(norm, squared_norm(one, values));
  EXPECT_EQ(squared_norm(one, values.first(0)), 0.0);
}

TEST(Clip, ScalesDownToTheLargestNormAndNeverUp) {
  EXPECT_DOUBLE_EQ(clip_scale(4.0, 1.0), 0.25);
  EXPECT_EQ(clip_scale(1.0, 1.0), 1.0);
  EXPECT_EQ(clip_scale(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_scale(0.0, 1.0), 1.0);
  EXPECT_EQ(clip_scale(1e9, 0.0), 1.0);
  EXPECT_THROW(clip_scale(std::numeric_limits<double>::infinity(), 1.0), Error);
  EXPECT_THROW(clip_scale(1.0, -1.0), Error);
}

}  // namespace
}  // namespace spanwise::testing
