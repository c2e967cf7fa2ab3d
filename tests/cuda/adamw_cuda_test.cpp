#include "core/optim/adamw.h"

#include <cmath>
#include <limits>

#include "core/optim/clip.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

/// One span on a device; on the CPU in F64 with the values the GPU has.
struct Span {
  AdamWTensors tensors;
  Tensor grad;
};

Span span_of(int64_t n, int64_t offset, DType copy, bool weight_decay) {
  // `offset` elements into their memory: aligned or not.
  const auto on_gpu = [&](const char* name, double scale, double shift) {
    return to_cuda(random_tensor({n + offset}, DType::kF64, name, scale, shift), DType::kF32)
        .slice_flat(offset, {n});
  };
  AdamWTensors span{.param = on_gpu("p", 1, 0),
                    .m = on_gpu("m", 0.1, 0),
                    .v = on_gpu("v", 1e-3, 0.01),
                    .weight_decay = weight_decay};
  if (copy != DType::kF64) span.copy = Tensor::empty(cuda_context(), {n}, copy);
  return {span, on_gpu("g", 3, 0)};
}

Span on_cpu(const Span& span) {
  const AdamWTensors& t = span.tensors;
  return {
      {.param = to_cpu64(t.param), .m = to_cpu64(t.m), .v = to_cpu64(t.v), .weight_decay = t.weight_decay},
      to_cpu64(span.grad)};
}

void step(Context& ctx, const std::vector<Span>& spans, const AdamWHyper& hyper,
          const GradientClip& clip = {}) {
  std::vector<AdamWTensors> tensors;
  std::vector<Tensor> grads;
  for (const Span& span : spans) {
    tensors.push_back(span.tensors);
    grads.push_back(span.grad);
  }
  AdamW(ctx, tensors).step(grads, hyper, clip);
}

const AdamWHyper kHyper{.lr = 0.01, .weight_decay = 0.1, .step = 7, .grad_scale = 0.5};

TEST(AdamWCuda, EqualsTheCpuOnManySpansOfEverySizeAndAlignment) {
  // More spans than one launch takes.
  std::vector<Span> gpu, cpu;
  for (const int64_t n : {1, 3, 16, 17, 30, 100, 511, 1000, 2048, 4096, 16384, 16388, 20000, 40001, 100003}) {
    for (const int64_t offset : {0, 1, 4}) {
      for (const DType copy : {DType::kBF16, DType::kF32, DType::kF64})
        gpu.push_back(span_of(n, offset, copy, n != 16));
    }
  }
  for (const Span& span : gpu) cpu.push_back(on_cpu(span));
  step(cuda_context(), gpu, kHyper);
  step(test_context(), cpu, kHyper);
  ASSERT_GT(gpu.size(), 128u);
  for (size_t i = 0; i < gpu.size(); ++i) {
    const AdamWTensors &got = gpu[i].tensors, &expected = cpu[i].tensors;
    SCOPED_TRACE(fmt::format("span {} of {}", i, got.param.numel()));
    // A few roundings of 6e-8; in a span of one element the two terms of m may nearly cancel.
    const double bound = got.param.numel() < 16 ? 5e-6 : 2e-7;
    EXPECT_LE(rms_ratio(got.param, expected.param), bound);
    EXPECT_LE(rms_ratio(got.m, expected.m), bound);
    EXPECT_LE(rms_ratio(got.v, expected.v), bound);
    if (!got.copy.defined()) continue;
    // The copy is the new parameter, rounded once.
    const std::vector<double> p = to_doubles(to_cpu64(got.param)), c = to_doubles(to_cpu64(got.copy));
    for (size_t e = 0; e < p.size(); ++e) {
      EXPECT_EQ(c[e], got.copy.dtype() == DType::kF32 ? p[e] : double(float(BFloat16(p[e])))) << e;
    }
  }
}

TEST(AdamWCuda, ClipsByTheNormOnTheDevice) {
  Context& ctx = cuda_context();
  const Span clipped = span_of(5000, 0, DType::kF64, true), scaled = span_of(5000, 0, DType::kF64, true);
  const int64_t waits = ctx.memory().host_waits;
  const Tensor squared = squared_norm(ctx, {clipped.grad});
  step(ctx, {clipped}, kHyper, {squared, 2.0});
  EXPECT_EQ(ctx.memory().host_waits, waits);
  AdamWHyper hyper = kHyper;
  hyper.grad_scale *= 2.0 / std::sqrt(squared.to_vector<double>()[0]);
  step(ctx, {scaled}, hyper);
  EXPECT_LE(rms_ratio(clipped.tensors.param, scaled.tensors.param), 1e-7);
  EXPECT_LE(rms_ratio(clipped.tensors.v, scaled.tensors.v), 1e-6);
}

TEST(AdamWCuda, ANormThatIsNotFiniteLeavesEverythingAsItWas) {
  for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    const Span span = span_of(100, 0, DType::kF64, true);
    const AdamWTensors &after = span.tensors, before = on_cpu(span).tensors;
    step(cuda_context(), {span}, kHyper, {Tensor::from(cuda_context(), {1}, std::vector<double>{bad}), 1.0});
    EXPECT_TRUE(bitwise_equal(to_cpu64(after.param), before.param));
    EXPECT_TRUE(bitwise_equal(to_cpu64(after.m), before.m));
    EXPECT_TRUE(bitwise_equal(to_cpu64(after.v), before.v));
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
  const auto norm = [](Context& ctx, const std::vector<Tensor>& parts) {
    return squared_norm(ctx, parts).to_vector<double>()[0];
  };
  const double expected = norm(test_context(), cpu), first = norm(cuda_context(), gpu);
  EXPECT_NEAR(first, expected, 1e-12 * expected);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(norm(cuda_context(), gpu), first);
  EXPECT_EQ(norm(cuda_context(), {}), 0.0);
}

}  // namespace
}  // namespace spanwise::testing
