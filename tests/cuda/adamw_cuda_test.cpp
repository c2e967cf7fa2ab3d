#include "core/optim/adamw.h"

#include <cmath>
#include <limits>

#include "core/optim/clip.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

/// One span on a device; on the CPU in F64 with the values the GPU has.
AdamWTensors span_of(int64_t n, int64_t offset, DType copy, bool weight_decay) {
  // `offset` elements into their memory: aligned or not.
  const auto on_gpu = [&](const char* name, double scale, double shift) {
    return to_cuda(random_tensor({n + offset}, DType::kF64, name, scale, shift), DType::kF32)
        .slice_flat(offset, {n});
  };
  AdamWTensors span{.param = on_gpu("p", 1, 0),
                    .grad = on_gpu("g", 3, 0),
                    .m = on_gpu("m", 0.1, 0),
                    .v = on_gpu("v", 1e-3, 0.01),
                    .weight_decay = weight_decay};
  if (copy != DType::kF64) span.copy = Tensor::empty(cuda_context(), {n}, copy);
  return span;
}

AdamWTensors on_cpu(const AdamWTensors& span) {
  return {.param = to_cpu64(span.param),
          .grad = to_cpu64(span.grad),
          .m = to_cpu64(span.m),
          .v = to_cpu64(span.v),
          .weight_decay = span.weight_decay};
}

const AdamWHyper kHyper{.lr = 0.01, .weight_decay = 0.1, .step = 7, .grad_scale = 0.5};

TEST(AdamWCuda, EqualsTheCpuOnManySpansOfEverySizeAndAlignment) {
  std::vector<AdamWTensors> gpu, cpu;
  for (const int64_t n : {1, 3, 16, 4096, 16384, 16388, 100003}) {
    for (const int64_t offset : {0, 1, 4}) {
      for (const DType copy : {DType::kBF16, DType::kF32, DType::kF64})
        gpu.push_back(span_of(n, offset, copy, n != 16));
    }
  }
  for (const AdamWTensors& span : gpu) cpu.push_back(on_cpu(span));
  AdamW(cuda_context(), gpu).step(kHyper);
  AdamW(test_context(), cpu).step(kHyper);
  for (size_t i = 0; i < gpu.size(); ++i) {
    SCOPED_TRACE(fmt::format("span {} of {}", i, gpu[i].param.numel()));
    // A few roundings of 6e-8; in a span of one element the two terms of m may nearly cancel.
    const double bound = gpu[i].param.numel() < 16 ? 5e-6 : 2e-7;
    EXPECT_LE(rms_ratio(gpu[i].param, cpu[i].param), bound);
    EXPECT_LE(rms_ratio(gpu[i].m, cpu[i].m), bound);
    EXPECT_LE(rms_ratio(gpu[i].v, cpu[i].v), bound);
    if (!gpu[i].copy.defined()) continue;
    // The copy is the new parameter, rounded once.
    const std::vector<double> p = to_doubles(to_cpu64(gpu[i].param)), c = to_doubles(to_cpu64(gpu[i].copy));
    for (size_t e = 0; e < p.size(); ++e) {
      EXPECT_EQ(c[e], gpu[i].copy.dtype() == DType::kF32 ? p[e] : double(float(BFloat16(p[e])))) << e;
    }
  }
}

TEST(AdamWCuda, ClipsByTheNormOnTheDevice) {
  Context& ctx = cuda_context();
  const AdamWTensors clipped = span_of(5000, 0, DType::kF64, true),
                     scaled = span_of(5000, 0, DType::kF64, true);
  const SquaredNorm squared(ctx, {clipped.grad});
  const int64_t waits = ctx.memory().host_waits;
  AdamW(ctx, {clipped}).step(kHyper, {squared(), 2.0});
  EXPECT_EQ(ctx.memory().host_waits, waits);
  AdamWHyper hyper = kHyper;
  hyper.grad_scale *= 2.0 / std::sqrt(squared().to_vector<double>()[0]);
  AdamW(ctx, {scaled}).step(hyper);
  EXPECT_LE(rms_ratio(clipped.param, scaled.param), 1e-7);
  EXPECT_LE(rms_ratio(clipped.v, scaled.v), 1e-6);
}

TEST(AdamWCuda, ANormThatIsNotFiniteLeavesEverythingAsItWas) {
  for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    const AdamWTensors span = span_of(100, 0, DType::kF64, true), before = on_cpu(span);
    AdamW(cuda_context(), {span})
        .step(kHyper, {Tensor::from(cuda_context(), {1}, std::vector<double>{bad}), 1.0});
    EXPECT_TRUE(bitwise_equal(to_cpu64(span.param), before.param));
    EXPECT_TRUE(bitwise_equal(to_cpu64(span.m), before.m));
    EXPECT_TRUE(bitwise_equal(to_cpu64(span.v), before.v));
  }
}

TEST(SquaredNormCuda, EqualsTheCpuAndItselfInEveryRun) {
  std::vector<Tensor> gpu, cpu;
  for (const int64_t n : {1, 5, 65536, 65537, 300001}) {
    for (const int64_t offset : {0, 3}) {
      gpu.push_back(
          to_cuda(random_tensor({n + offset}, DType::kF64, "g", 1e-3), DType::kF32).slice_flat(offset, {n}));
      cpu.push_back(to_cpu64(gpu.back()));
    }
  }
  const SquaredNorm norm(cuda_context(), gpu);
  const double expected = SquaredNorm(test_context(), cpu)().to_vector<double>()[0];
  const double first = norm().to_vector<double>()[0];
  EXPECT_NEAR(first, expected, 1e-12 * expected);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(norm().to_vector<double>()[0], first);
  EXPECT_EQ(SquaredNorm(cuda_context(), {})().to_vector<double>()[0], 0.0);
}

}  // namespace
}  // namespace spanwise::testing
