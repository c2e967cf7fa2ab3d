// 16 and 32 ranks, threads of this process: what is summed over ranks is rounded to BF16 once, so its error
// does not grow with them. The CPU computes in F32 and rounds what a GPU would store in BF16.

#include "tests/testing/attention_ranks.h"

namespace spanwise::testing {
namespace {

/// Those of tests/testing/cuda_testing.h, by which BF16 kernels are judged on one GPU.
constexpr double kOutputBound = 0.005, kGradientBound = 0.008;

struct Way {
  const char* name;
  AttentionExchange exchange;
  int64_t window;
};
constexpr Way kWays[] = {{"ring", AttentionExchange::kRing, 0},
                         {"all-gather", AttentionExchange::kAllGather, 0},
                         {"all-gather, window", AttentionExchange::kAllGather, 150},
                         {"Ulysses", AttentionExchange::kUlysses, 0}};

// Sums rounded at every term were 1.7 to 2.3 times as far off at 16 ranks as at 2, and 2.2 to 5 times at 32.
constexpr double kMostGrowth = 1.4;

TEST(AttentionOfManyRanks, ErrorsInBF16DoNotGrowWithTheRanks) {
  for (const Way& way : kWays) {
    // Ulysses: one key head that every rank has.
    const AttentionOverRanks attention(
        {.tokens = 256, .heads = 32, .kv_heads = 1, .dim = 8, .window = way.window}, DType::kBF16);
    for (const Partition kind : {Partition::kContiguous, Partition::kZigzag}) {
      const AttentionErrors two = attention.errors(2, kind, way.exchange, cpu_ranks());
      for (const int ranks : {16, 32}) {
        const AttentionErrors e = attention.errors(ranks, kind, way.exchange, cpu_ranks());
        SCOPED_TRACE(fmt::format("{}, {} ranks, {}: out {:.5f}, dq {:.5f}, dk {:.5f}, dv {:.5f}", way.name,
                                 ranks, kind == Partition::kZigzag ? "zigzag" : "contiguous", e.out, e.dq,
                                 e.dk, e.dv));
        EXPECT_LE(e.out, std::min(kOutputBound, kMostGrowth * two.out));
        EXPECT_LE(e.dq, std::min(kGradientBound, kMostGrowth * two.dq));
        EXPECT_LE(e.dk, std::min(kGradientBound, kMostGrowth * two.dk));
        EXPECT_LE(e.dv, std::min(kGradientBound, kMostGrowth * two.dv));
      }
    }
  }
}

TEST(AttentionOfManyRanks, InF32StaysWithinItsBounds) {
  const AttentionOverRanks attention({.tokens = 128, .heads = 32, .kv_heads = 1, .dim = 8, .window = 0},
                                     DType::kF32);
  for (const AttentionExchange exchange :
       {AttentionExchange::kRing, AttentionExchange::kAllGather, AttentionExchange::kUlysses}) {
    const AttentionErrors e = attention.errors(32, Partition::kZigzag, exchange, cpu_ranks());
    for (const double error : {e.out, e.dq, e.dk, e.dv}) EXPECT_LE(error, 1e-5) << int(exchange);
  }
}

}  // namespace
}  // namespace spanwise::testing
