// Run under mpirun with several rank counts; every rank runs every test.

#include <cstdlib>

#include "parallel/comm.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

Comm& world() {
  static const std::unique_ptr<Comm> comm = make_world_comm();
  return *comm;
}

TEST(MpiComm, SeesAsManyRanksAsWereStarted) {
  EXPECT_EQ(world().size(), std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE")));
  EXPECT_EQ(world().rank(), std::atoi(std::getenv("OMPI_COMM_WORLD_RANK")));
}

TEST(MpiComm, AllReduceSumsAndTakesTheMaximum) {
  const int ranks = world().size(), mine = world().rank() + 1;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    Tensor t = Tensor::empty(test_context(), {3}, dtype);
    t.fill(mine);
    world().all_reduce("t", t).wait();
    EXPECT_EQ(to_doubles(t)[2], ranks * (ranks + 1) / 2);
  }
  std::vector<double> values{double(mine), -double(mine)};
  world().all_reduce("values", values, Reduce::kMax);
  EXPECT_EQ(values, (std::vector<double>{double(ranks), -1.0}));
}

TEST(MpiComm, AllReduceIsBitwiseEqualOnEveryRank) {
  const Tensor t = random_tensor({1000}, DType::kF32, fmt::format("rank {}", world().rank()));
  world().all_reduce("t", t).wait();
  Tensor largest = Tensor::empty(test_context(), {1000}, DType::kF32);
  largest.copy_from(t);
  world().all_reduce("largest", largest, Reduce::kMax).wait();
  EXPECT_TRUE(bitwise_equal(t, largest));
}

TEST(MpiComm, BroadcastReplacesTextOfAnyLength) {
  std::string text = world().rank() == 0 ? std::string(5000, 'x') + '\0' + "end" : "something else";
  world().broadcast("text", text);
  EXPECT_EQ(text, std::string(5000, 'x') + '\0' + "end");
  std::string nothing = world().rank() == 0 ? "" : "something else";
  world().broadcast("nothing", nothing);
  EXPECT_EQ(nothing, "");
}

}  // namespace
}  // namespace spanwise::testing
