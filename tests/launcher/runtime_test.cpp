#include "launcher/runtime.h"

#include <gtest/gtest.h>

#include "tests/testing/user_error.h"

namespace spanwise::testing {
namespace {

LaunchInfo rank_of_machine(int local_rank, int local_size) {
  return {.rank = local_rank, .size = local_size, .local_rank = local_rank, .local_size = local_size};
}

TEST(GpuOfRank, IsTheLocalRanksWhereAllAreSeen) {
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(gpu_of_rank(rank_of_machine(rank, 4), 4), rank);
    EXPECT_EQ(gpu_of_rank(rank_of_machine(rank, 4), 8), rank);
  }
}

TEST(GpuOfRank, IsTheOnlyOneWhereEachRankIsBoundToOne) {
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(gpu_of_rank(rank_of_machine(rank, 4), 1), 0);
  // Slurm need not say how many tasks a machine has.
  EXPECT_EQ(gpu_of_rank(rank_of_machine(3, 1), 1), 0);
}

TEST(GpuOfRank, RefusesMoreRanksThanGpus) {
  EXPECT_NE(user_error_of([] { gpu_of_rank(rank_of_machine(0, 4), 3); }).find("4 ranks"), std::string::npos);
  EXPECT_NE(user_error_of([] { gpu_of_rank(rank_of_machine(5, 1), 4); }).find("6 ranks"), std::string::npos);
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
