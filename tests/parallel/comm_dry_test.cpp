// That a dry world counts what a real one does is in mesh_mpi_test.cpp.

#include "parallel/comm_dry.h"

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr MeshShape kShape{2, 2, 4};

TEST(CommDry, SeesTheMachinesOfNeighboursInTheWorldsOrder) {
  const auto world = make_dry_world(kShape, {.rank = 13, .ranks_per_machine = 8});
  const Mesh mesh(*world, kShape);
  EXPECT_EQ(mesh.data().machines(), (std::vector<int>{0, 1}));
  EXPECT_EQ(mesh.sequence().machines(), (std::vector<int>{1, 1}));
  EXPECT_EQ(mesh.tensor().rank(), 1);
  EXPECT_EQ(mesh.data_sequence().machines(), (std::vector<int>{0, 0, 1, 1}));
  EXPECT_EQ(world->local_ranks().size, 8);
  EXPECT_EQ(world->local_ranks().rank, 5);
  EXPECT_EQ(make_dry_world(kShape, {})->local_ranks().size, 16);
}

TEST(CommDry, HoldsTensorsToTheWaitAndLeavesThemAsTheyAre) {
  Context ctx;
  const auto world = make_dry_world(kShape, {.rank = 3});
  Tensor tensor = Tensor::from<double>(ctx, {3}, {1, 2, 3});
  Ticket ticket = world->all_reduce("sum", tensor);
  EXPECT_EQ(tensor.to_vector<double>(), (std::vector<double>{1, 2, 3}));
  tensor = {};
  EXPECT_GT(ctx.memory().live_bytes, 0u);
  ticket.wait();
  EXPECT_EQ(ctx.memory().live_bytes, 0u);
}

TEST(CommDry, RefusesWhatItCannotKnow) {
  const auto world = make_dry_world(kShape, {});
  EXPECT_THROW(world->all_gather("texts", "mine"), Error);
  EXPECT_THROW(world->split(0, "expert"), Error);
  EXPECT_THROW(world->split(1, "data"), Error);
  EXPECT_THROW(make_dry_world(kShape, {.rank = 16}), Error);
}

}  // namespace
}  // namespace spanwise::testing
