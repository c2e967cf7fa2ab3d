// Ranks simulated by threads of this process, which share one GPU: what is summed over 16 and 32 of them is
// rounded to BF16 once. tests/parallel/attention_ranks_test.cpp has the same in the CPU's arithmetic.

#include "tests/testing/attention_ranks.h"

#include <cuda_runtime.h>

#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

/// Between a GPU's memory and the host's, behind all that was started before.
void copy_synchronously(void* to, const void* from, size_t bytes) {
  SPANWISE_CHECK(cudaDeviceSynchronize() == cudaSuccess &&
                     cudaMemcpy(to, from, bytes, cudaMemcpyDefault) == cudaSuccess &&
                     cudaDeviceSynchronize() == cudaSuccess,
                 "{} bytes could not be copied", bytes);
}

RankDevices gpu_ranks() {
  return {[] {
            return std::make_unique<Context>(
                ContextOptions{.device = Device::kCUDA, .num_threads = 1, .poison = true});
          },
          copy_synchronously, copy_synchronously};
}

struct Way {
  const char* name;
  AttentionExchange exchange;
  int64_t window;
};
constexpr Way kWays[] = {{"ring", AttentionExchange::kRing, 0},
                         {"all-gather", AttentionExchange::kAllGather, 0},
                         {"all-gather, window", AttentionExchange::kAllGather, 250},
                         {"Ulysses", AttentionExchange::kUlysses, 0}};
/// From 2 ranks to 16 or 32.
constexpr double kMostGrowth = 1.5;

TEST(AttentionOfManyRanksCuda, ErrorsInBF16DoNotGrowWithTheRanks) {
  for (const Way& way : kWays) {
    const AttentionOverRanks attention(
        {.tokens = 512, .heads = 32, .kv_heads = 1, .dim = 64, .window = way.window}, DType::kBF16);
    const AttentionErrors two = attention.errors(2, Partition::kZigzag, way.exchange, gpu_ranks());
    for (const int ranks : {16, 32}) {
      const AttentionErrors e = attention.errors(ranks, Partition::kZigzag, way.exchange, gpu_ranks());
      const std::string text = fmt::format(
          "{}, {} ranks: out {:.5f} (2 ranks: {:.5f}), dq {:.5f} ({:.5f}), dk {:.5f} ({:.5f}), dv "
          "{:.5f} ({:.5f})",
          way.name, ranks, e.out, two.out, e.dq, two.dq, e.dk, two.dk, e.dv, two.dv);
      fmt::print("{}\n", text);
      SCOPED_TRACE(text);
      EXPECT_LE(e.out, std::min(kBoundsBF16.output, kMostGrowth * two.out));
      EXPECT_LE(e.dq, std::min(kBoundsBF16.gradient, kMostGrowth * two.dq));
      EXPECT_LE(e.dk, std::min(kBoundsBF16.gradient, kMostGrowth * two.dk));
      EXPECT_LE(e.dv, std::min(kBoundsBF16.gradient, kMostGrowth * two.dv));
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
