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

TEST(AttentionOfManyRanksCuda, InBF16StaysWithinTheBoundsOfOneRank) {
  if (under_checker()) return;
  struct Way {
    const char* name;
    AttentionExchange exchange;
    int64_t window;
  };
  for (const Way& way :
       {Way{"ring", AttentionExchange::kRing, 0}, Way{"all-gather", AttentionExchange::kAllGather, 0},
        Way{"all-gather, window", AttentionExchange::kAllGather, 500},
        Way{"Ulysses", AttentionExchange::kUlysses, 0}}) {
    const AttentionOverRanks attention(
        {.tokens = 1024, .heads = 32, .kv_heads = 1, .dim = 64, .window = way.window}, DType::kBF16);
    for (const int ranks : {2, 16, 32}) {
      const AttentionErrors e = attention.errors(ranks, Partition::kZigzag, way.exchange, gpu_ranks());
      fmt::print("{}, {} ranks: out {:.5f}, dq {:.5f}, dk {:.5f}, dv {:.5f}\n", way.name, ranks, e.out, e.dq,
                 e.dk, e.dv);
      EXPECT_LE(e.out, kBoundsBF16.output) << way.name << ", " << ranks << " ranks";
      for (const double gradient : {e.dq, e.dk, e.dv})
        EXPECT_LE(gradient, kBoundsBF16.gradient) << way.name << ", " << ranks << " ranks";
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
