// A Context without memory (core/context.h).

#include <omp.h>

#include <set>

#include "core/ops/linear.h"
#include "core/ops/pointwise.h"
#include "core/ops/softmax_attention.h"
#include "tests/testing/dry_testing.h"

namespace spanwise::testing {
namespace {

TEST(DryContext, IsOfADeviceThatNeedNotBeThereAndSetsNothing) {
  const int threads = omp_get_max_threads();
  Context gpu({.device = Device::kCUDA, .num_threads = threads + 5, .gpu = 77, .dry = true});
  EXPECT_EQ(gpu.device(), Device::kCUDA);
  EXPECT_TRUE(gpu.dry());
  EXPECT_EQ(gpu.stream(), nullptr);
  EXPECT_EQ(omp_get_max_threads(), threads);
  gpu.synchronize();
  EXPECT_FALSE(test_context().dry());
}

TEST(DryContext, CountsAsTheCpusAllocatorDoes) {
  Context real, dry({.dry = true});
  for (size_t bytes = 0; bytes < size_t{1} << 22; bytes += 1 + bytes / 3) {
    std::vector<std::shared_ptr<Buffer>> held;
    for (Context* ctx : {&real, &dry}) {
      held.push_back(ctx->allocate(bytes));
      held.push_back(ctx->allocate(bytes / 2));
    }
    EXPECT_EQ(dry.memory().live_bytes, real.memory().live_bytes) << bytes;
    EXPECT_EQ(dry.memory().reserved_bytes, real.memory().reserved_bytes) << bytes;
  }
  EXPECT_EQ(dry.memory().live_bytes, 0u);
  EXPECT_EQ(dry.memory().peak_bytes, real.memory().peak_bytes);
  dry.reset_peak();
  EXPECT_EQ(dry.memory().peak_bytes, 0u);
  dry.release_cache();
  EXPECT_EQ(dry.memory().reserved_bytes, 0u);
}

TEST(DryContext, CountsWhatAGpuGives) {
  Context gpu({.device = Device::kCUDA, .dry = true});
  const auto small = gpu.allocate(1), large = gpu.allocate(100'001);
  EXPECT_EQ(gpu.memory().live_bytes, 256u + 100'001u);
}

TEST(DryContext, GivesDistinctAlignedAddresses) {
  Context dry({.dry = true});
  std::set<void*> addresses;
  for (int i = 0; i < 100; ++i) {
    const Tensor t = Tensor::empty(dry, {i}, DType::kF32);  // freed at once
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.raw()) % 256, 0u);
    addresses.insert(t.raw());
  }
  EXPECT_EQ(addresses.size(), 100u);
}

TEST(DryContext, HasNoValues) {
  Context dry({.dry = true});
  const Tensor t = Tensor::from<double>(dry, {3}, {1, 2, 3});
  t.fill(5.0);
  EXPECT_EQ(t.to_vector<double>(), (std::vector<double>{0, 0, 0}));
}

// A terabyte of projections, in any build.
TEST(DryContext, RunsOpsOfAGpuWithoutOne) {
  Context gpu({.device = Device::kCUDA, .dry = true});
  const int64_t rows = int64_t{1} << 22, width = 1 << 16;
  const Var x(Tensor::empty(gpu, {rows, width}, DType::kBF16), true),
      w(Tensor::empty(gpu, {width, width}, DType::kBF16), true);
  Tape tape(gpu);
  const Var y = linear(tape, x, w);
  EXPECT_GE(gpu.memory().live_bytes, size_t(4 * rows * width));
  tape.backward({y}, {Tensor::empty(gpu, y.shape(), DType::kBF16)});
  EXPECT_EQ(w.grad().dtype(), DType::kF32);
  EXPECT_EQ(gpu.work().flops, 3 * 2.0 * double(rows) * double(width) * double(width));
}

// Products choose their algorithm in memory of their own, once.
TEST(DryContext, AProductsFirstCallTakesMore) {
  Context gpu({.device = Device::kCUDA, .dry = true});
  const Tensor x = Tensor::empty(gpu, {4096, 2048}, DType::kBF16),
               dw = Tensor::empty(gpu, {2048, 2048}, DType::kF32);
  const auto peak_over_live = [&] {
    gpu.reset_peak();
    linear_bwd_weight(gpu, x, x, {dw, /*accumulate=*/true});
    return gpu.memory().peak_bytes - gpu.memory().live_bytes;
  };
  const size_t checksum = 256;
  EXPECT_EQ(peak_over_live(), dw.bytes() + checksum);
  EXPECT_EQ(peak_over_live(), 0u);
}

TEST(DryContext, CountsWorkThatIsDoneAgainApart) {
  Context dry({.dry = true});
  const Var x(Tensor::empty(dry, {8, 4}, DType::kF32), true),
      w(Tensor::empty(dry, {4, 4}, DType::kF32), true);
  const double product = 2.0 * 8 * 4 * 4;
  for (const bool checkpointed : {false, true}) {
    dry.reset_work();
    Tape tape(dry);
    const auto section = [&](Tape& of, const std::vector<Var>& in) {
      return std::vector<Var>{linear(of, in[0], w)};
    };
    const Var y = checkpointed ? checkpoint(tape, section, {x})[0] : section(tape, {x})[0];
    tape.backward({y}, {Tensor::empty(dry, y.shape(), DType::kF32)});
    EXPECT_EQ(dry.work().flops, 3 * product);
    EXPECT_EQ(dry.work().recomputed_flops, checkpointed ? product : 0.0);
  }
  dry.reset_work();
  Tape tape(dry);
  const auto square = [&tape](const Var& y) { return multiply(tape, y, y); };
  const Var z = square(linear(tape, x, w, {}, Recompute::kYes));
  tape.backward({z}, {Tensor::empty(dry, z.shape(), DType::kF32)});
  EXPECT_EQ(dry.work().flops, 3 * product);
  EXPECT_EQ(dry.work().recomputed_flops, product);
}

// Pairs that the mask keeps, by the real documents.
TEST(DryContext, AttentionCountsThePairsOfItsDocuments) {
  Context dry({.dry = true});
  const int64_t H = 4, K = 8, V = 16;
  const auto flops = [&](const SequenceLayout& layout, int64_t window) {
    dry.reset_work();
    const auto tensor = [&](int64_t heads, int64_t width) {
      return Var(Tensor::empty(dry, {layout.batch(), layout.length(), heads, width}, DType::kF32), true);
    };
    Tape tape(dry);
    const Var out = softmax_attention(tape, tensor(H, K), tensor(2, K), tensor(2, V),
                                      causal_key_ranges(layout, window), 1);
    tape.backward({out}, {Tensor::empty(dry, out.shape(), DType::kF32)});
    return dry.work();
  };
  const double per_pair = double(H) * 2 * double(K + V);
  EXPECT_EQ(flops(SequenceLayout(2, 10), 0).flops, 3 * per_pair * 2 * 55);
  EXPECT_EQ(flops(SequenceLayout(2, 10), 0).recomputed_flops, double(H) * 2 * double(K) * 2 * 55);
  EXPECT_EQ(flops(SequenceLayout(2, 10, {0, 4, 10}), 0).flops, 3 * per_pair * (10 + 21 + 55));
  EXPECT_EQ(flops(SequenceLayout(2, 10), 3).flops, 3 * per_pair * 2 * (1 + 2 + 8 * 3));
}

}  // namespace
}  // namespace spanwise::testing
