// Run under mpirun with several rank counts; every rank runs every test.

#include "parallel/comm_dry.h"
#include "parallel/mesh.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/user_error.h"

namespace spanwise::testing {
namespace {

Comm& world() {
  static const std::unique_ptr<Comm> comm = make_world_comm();
  return *comm;
}

std::vector<MeshShape> shapes_of_world() {
  std::vector<MeshShape> shapes;
  for (int data = 1; data <= world().size(); ++data) {
    for (int sequence = 1; data * sequence <= world().size(); ++sequence) {
      const MeshShape shape{data, sequence, world().size() / (data * sequence)};
      if (shape.size() == world().size()) shapes.push_back(shape);
    }
  }
  return shapes;
}

/// World ranks along an axis, in its order.
std::vector<double> members(Comm& axis) {
  std::vector<double> ranks(size_t(axis.size()), 0.0);
  ranks[size_t(axis.rank())] = world().rank();
  axis.all_reduce("members", ranks);
  return ranks;
}

TEST(Mesh, TensorIsInnermostThenSequenceThenData) {
  for (const MeshShape& shape : shapes_of_world()) {
    const Mesh mesh(world(), shape);
    EXPECT_EQ(mesh.data().size(), shape.data);
    EXPECT_EQ(mesh.sequence().size(), shape.sequence);
    EXPECT_EQ(mesh.tensor().size(), shape.tensor);
    EXPECT_EQ(
        (mesh.data().rank() * shape.sequence + mesh.sequence().rank()) * shape.tensor + mesh.tensor().rank(),
        world().rank());
    EXPECT_EQ(mesh.data_sequence().size(), shape.data * shape.sequence);
    EXPECT_EQ(mesh.data_sequence().rank(), mesh.data().rank() * shape.sequence + mesh.sequence().rank());
  }
}

TEST(Mesh, AnAxisJoinsTheRanksThatDifferInItAlone) {
  for (const MeshShape& shape : shapes_of_world()) {
    const Mesh mesh(world(), shape);
    const int d = mesh.data().rank(), s = mesh.sequence().rank(), t = mesh.tensor().rank();
    const auto at = [&](int data, int sequence, int tensor) {
      return double((data * shape.sequence + sequence) * shape.tensor + tensor);
    };
    std::vector<double> data, sequence, tensor, data_sequence;
    for (int i = 0; i < shape.data; ++i) data.push_back(at(i, s, t));
    for (int i = 0; i < shape.sequence; ++i) sequence.push_back(at(d, i, t));
    for (int i = 0; i < shape.tensor; ++i) tensor.push_back(at(d, s, i));
    for (int i = 0; i < shape.data; ++i) {
      for (int j = 0; j < shape.sequence; ++j) data_sequence.push_back(at(i, j, t));
    }
    EXPECT_EQ(members(mesh.data()), data);
    EXPECT_EQ(members(mesh.sequence()), sequence);
    EXPECT_EQ(members(mesh.tensor()), tensor);
    EXPECT_EQ(members(mesh.data_sequence()), data_sequence);
  }
}

TEST(Mesh, AxesCarryTheirNames) {
  const Mesh mesh(world(), {world().size(), 1, 1});
  std::vector<std::string> names;
  for (const Comm* axis : mesh.axes()) names.push_back(axis->axis());
  EXPECT_EQ(names, (std::vector<std::string>{"data", "sequence", "tensor", "data_sequence"}));
}

/// One of each, of sizes that divide unevenly.
void call_every_collective(Comm& comm) {
  Context& ctx = test_context();
  const int64_t ranks = comm.size(), n = 3 * ranks;
  const Tensor small = Tensor::zeros(ctx, {n}, DType::kF64),
               large = Tensor::zeros(ctx, {n * ranks}, DType::kF64);
  comm.all_reduce("sum", large.slice_flat(0, {n - 1})).wait();
  comm.all_gather("gather", small, large).wait();
  comm.reduce_scatter("scatter", large, small).wait();
  comm.all_to_all("shuffle", small, Tensor::zeros(ctx, {n}, DType::kF64)).wait();
  comm.broadcast("root", small, int(ranks - 1)).wait();
  const int next = (comm.rank() + 1) % comm.size(), before = (comm.rank() + comm.size() - 1) % comm.size();
  comm.exchange("ring", {{next, small}}, {{before, large.slice_flat(0, {n})}}).wait();
  std::vector<double> numbers(5, 1.0);
  comm.all_reduce("numbers", numbers);
  EXPECT_EQ(numbers, std::vector<double>(5, double(ranks)));
  comm.all_reduce("largest", numbers, Reduce::kMax);
  EXPECT_EQ(numbers, std::vector<double>(5, double(ranks)));
  std::string text = "the same on all";
  comm.broadcast("text", text);
  EXPECT_EQ(text, "the same on all");
  comm.barrier();
}

TEST(Mesh, OfADryWorldHasTheRealOnesPlacesAndBytes) {
  for (const MeshShape& shape : shapes_of_world()) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", shape.data, shape.sequence, shape.tensor));
    const std::unique_ptr<Comm> dry_world = make_dry_world(shape, {.rank = world().rank()});
    world().reset_traffic();
    const Mesh real(world(), shape), dry(*dry_world, shape);
    const std::vector<Comm*> real_comms = real.comms(), dry_comms = dry.comms();
    for (size_t i = 0; i < real_comms.size(); ++i) {
      Comm &expected = *real_comms[i], &got = *dry_comms[i];
      EXPECT_EQ(got.axis(), expected.axis());
      EXPECT_EQ(got.size(), expected.size());
      EXPECT_EQ(got.rank(), expected.rank());
      EXPECT_EQ(got.machines(), expected.machines());
      call_every_collective(expected);
      call_every_collective(got);
      ASSERT_EQ(got.traffic().size(), expected.traffic().size());
      for (const auto& [name, traffic] : expected.traffic()) {
        EXPECT_EQ(got.traffic().at(name).calls, traffic.calls) << name;
        EXPECT_EQ(got.traffic().at(name).received_bytes, traffic.received_bytes) << name;
      }
    }
  }
}

TEST(Mesh, AWrongProductNamesTheNearestOnesThatWouldDo) {
  const auto message = [&](MeshShape shape) { return user_error_of([&] { Mesh(world(), shape); }); };
  const int ranks = world().size();
  EXPECT_EQ(message({0, 1, 1}), "parallel.data is 0; it must be at least 1.");
  const std::string wrong = message({ranks, 1, 5});
  EXPECT_NE(wrong.find(fmt::format("parallel.data x sequence x tensor = {} x 1 x 5 = {} but there", ranks,
                                   5 * ranks)),
            std::string::npos)
      << wrong;
  EXPECT_NE(wrong.find(fmt::format("use e.g. data: {} sequence: 1 tensor: 1", ranks)), std::string::npos)
      << wrong;
  if (ranks != 8) return;
  EXPECT_EQ(message({2, 3, 1}),
            "parallel.data x sequence x tensor = 2 x 3 x 1 = 6 but there are 8 ranks; use e.g. data: 2 "
            "sequence: 4 tensor: 1, or data: 4 sequence: 2 tensor: 1, or data: 2 sequence: 2 tensor: 2.");
}

}  // namespace
}  // namespace spanwise::testing
