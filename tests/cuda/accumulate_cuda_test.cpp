#include "core/ops/accumulate.h"

#include "tests/testing/cuda_testing.h"

namespace spanwise {
namespace {

using namespace testing;

TEST(CudaAccumulate, AddsGradientsOfEveryDtypeAndSize) {
  for (const auto& [to, from] :
       {std::pair{DType::kF32, DType::kF32}, {DType::kF32, DType::kBF16}, {DType::kBF16, DType::kBF16}}) {
    for (const int64_t n : {1, 7, 8, 4096, 100003}) {
      const Tensor a = to_cuda(random_tensor({n}, DType::kF64, "a"), to);
      const Tensor b = to_cuda(random_tensor({n}, DType::kF64, "b"), from);
      std::vector<double> sum = to_doubles(to_cpu64(a)), add = to_doubles(to_cpu64(b));
      for (int64_t i = 0; i < n; ++i) sum[i] += add[i];
      accumulate(cuda_context(), a, b);
      const double bound = to == DType::kF32 ? 1e-7 : 0.004;
      EXPECT_LE(rms_ratio(a, Tensor::from(test_context(), {n}, sum)), bound) << name_of(from) << " " << n;
    }
  }
}

TEST(CudaMemory, SteadyStateTakesNothingFromTheGpu) {
  Context& ctx = cuda_context();
  const auto step = [&] {
    std::vector<Tensor> held;
    for (int i = 1; i < 20; ++i) held.push_back(Tensor::zeros(ctx, {i * 1000003}, DType::kF32));
  };
  step();
  const size_t reserved = ctx.memory().reserved_bytes, live = ctx.memory().live_bytes;
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(ctx.memory().reserved_bytes, reserved);
  EXPECT_EQ(ctx.memory().live_bytes, live);
}

TEST(CudaTensor, MovesValuesBetweenHostAndGpu) {
  Context& ctx = cuda_context();
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  const Tensor t = Tensor::from(ctx, {2, 3}, values);
  EXPECT_EQ(t.to_vector<float>(), values);
  EXPECT_EQ(t.column_range(1, 3).to_contiguous(ctx).to_vector<float>(), (std::vector<float>{2, 3, 5, 6}));
  EXPECT_EQ(t.to(test_context()).device(), Device::kCPU);
  const Tensor filled = Tensor::empty(ctx, {5}, DType::kBF16);
  filled.fill(1.5);
  EXPECT_EQ(to_doubles(to_cpu64(filled)), std::vector<double>(5, 1.5));
}

}  // namespace
}  // namespace spanwise
