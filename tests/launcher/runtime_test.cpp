#include "launcher/runtime.h"

#include "launcher/objects.h"

#include <gtest/gtest.h>

#include "tests/testing/user_error.h"

namespace spanwise::testing {
namespace {

TEST(GpuOfRank, IsTheLocalRanksWhereAllAreSeen) {
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(gpu_of_rank({rank, 4}, 4), rank);
    EXPECT_EQ(gpu_of_rank({rank, 4}, 8), rank);
  }
}

TEST(GpuOfRank, IsTheOnlyOneWhereEachRankIsBoundToOne) {
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(gpu_of_rank({rank, 4}, 1), 0);
}

TEST(GpuOfRank, RefusesMoreRanksThanGpus) {
  EXPECT_NE(user_error_of([] { gpu_of_rank({0, 4}, 3); }).find("4 ranks"), std::string::npos);
  EXPECT_NE(user_error_of([] { gpu_of_rank({5, 6}, 4); }).find("6 ranks"), std::string::npos);
}

TEST(ShareOfCores, RanksDivideTheCoresThatTheyMayAllUse) {
  const std::string all(16, '1');
  EXPECT_EQ(share_of_cores({all}, 0, 0), 16);
  EXPECT_EQ(share_of_cores({all, all, all, all}, 2, 0), 4);
  EXPECT_EQ(share_of_cores({all, all, all}, 0, 0), 5);
  // A job's cores of a larger machine: every rank is bound, and all to the same.
  const std::string job = std::string(16, '0') + std::string(8, '1');
  EXPECT_EQ(share_of_cores({job, job, job, job}, 3, 0), 2);
  EXPECT_EQ(share_of_cores({"1", "1", "1"}, 1, 0), 1) << "at least one";
}

TEST(ShareOfCores, ABoundRankHasItsCoresAlone) {
  EXPECT_EQ(share_of_cores({"11110000", "00001111"}, 0, 0), 4);
  EXPECT_EQ(share_of_cores({"11110000", "00001111"}, 1, 0), 4);
  EXPECT_EQ(share_of_cores({"1111", "11111111"}, 1, 0), 6) << "four alone, and half of four";
}

TEST(ShareOfCores, AContainersQuotaIsDividedToo) {
  const std::string all(64, '1');
  EXPECT_EQ(share_of_cores({all, all}, 0, 8), 4);
  EXPECT_EQ(share_of_cores({"0011", "1100"}, 0, 8), 2);
}

TEST(RanksPerNode, AreThoseThatShareAMachine) {
  config::ParallelConfig parallel;
  parallel.set_exchange(config::StateExchange::TWO_LEVEL);
  EXPECT_EQ(ranks_per_node(parallel, {0, 0, 0, 0}), 4);
  EXPECT_EQ(ranks_per_node(parallel, {0, 0, 1, 1}), 2);
  EXPECT_EQ(ranks_per_node(parallel, {0, 1, 2, 3}), 1);
  // 6 ranks a machine in sequences of 4: each of the three groups has nodes that no machine cuts.
  EXPECT_EQ(ranks_per_node(parallel, {0, 0, 1, 1}), 2);
  EXPECT_EQ(ranks_per_node(parallel, {0, 0, 1, 1, 1, 1, 2, 2}), 2);
  parallel.set_ranks_per_node(8);
  EXPECT_EQ(ranks_per_node(parallel, {0, 0, 1, 1, 1, 1, 2, 2}), 8) << "as configured";
}

TEST(RanksPerNode, UnevenMachinesAreRefusedForTwoLevelsAlone) {
  config::ParallelConfig parallel;
  EXPECT_EQ(ranks_per_node(parallel, {0, 0, 0, 1}), 1) << "without effect";
  parallel.set_exchange(config::StateExchange::TWO_LEVEL);
  const std::string sentence = user_error_of([&] { ranks_per_node(parallel, {0, 0, 0, 1}); });
  EXPECT_NE(sentence.find("as 3 + 1"), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("parallel.ranks_per_node"), std::string::npos) << sentence;
}

TEST(OwnGpus, TwoRanksOfOneAreRefusedByName) {
  const std::string a("\0a", 2), b("\0b", 2), c("c\0", 2);
  require_own_gpus({a, b, c});
  require_own_gpus({});
  EXPECT_NE(user_error_of([&] { require_own_gpus({a, b, c, b}); }).find("Ranks 1 and 3"), std::string::npos);
}

TEST(OwnGpus, AllRanksOrNoneHaveOne) {
  require_own_gpus({"", "", ""});
  EXPECT_NE(user_error_of([] { require_own_gpus({"a", ""}); }).find("0 and 1"), std::string::npos);
  EXPECT_NE(user_error_of([] { require_own_gpus({"", "", "a"}); }).find("0 and 2"), std::string::npos);
}

}  // namespace
}  // namespace spanwise::testing
