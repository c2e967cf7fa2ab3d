// Which axes connect their GPUs, and when, seen by a backend that has none.

#include <map>

#include "parallel/comm_backend.h"
#include "parallel/mesh.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

/// Counts what its axes are asked for; a connection is collective, as NCCL's is.
class RecordingBackend final : public GpuBackend {
 public:
  class Axis final : public GpuAxis {
   public:
    Axis(RecordingBackend& backend, AxisRanks ranks) : backend_(backend), ranks_(std::move(ranks)) {}
    void connect() override {
      int64_t id = ranks_.rank == 0 ? 77 : 0;
      ranks_.broadcast(CommBlock(&id, 1, DType::kI64));
      EXPECT_EQ(id, 77);
      ++backend_.connected[ranks_.name];
    }
    std::unique_ptr<Ticket::Pending> start(Collective) override {
      SPANWISE_FAIL("a tensor on a GPU that is not there");
    }

   private:
    RecordingBackend& backend_;
    AxisRanks ranks_;
  };
  std::unique_ptr<GpuAxis> make_axis(AxisRanks ranks) override {
    return std::make_unique<Axis>(*this, std::move(ranks));
  }
  void set_timeout(double) override {}
  void start_timeline() override {}
  CommTimeline take_timeline() override { return {}; }

  std::map<std::string, int> connected;
};

const std::shared_ptr<RecordingBackend>& backend() {
  static const auto made = std::make_shared<RecordingBackend>();
  return made;
}

Comm& world() {
  static const std::unique_ptr<Comm> comm = [] {
    auto made = make_world_comm({.gpu_backend = [](std::shared_ptr<CommFailure>) { return backend(); }});
    made->use_gpu(test_context());
    return made;
  }();
  return *comm;
}

TEST(ConnectGpus, TheAxesOfAMeshConnectBeforeTheirFirstTensorOnEveryRank) {
  const int size = world().size(), other = size % 2 == 0 ? 2 : 1;
  for (const MeshShape& shape : {MeshShape{size, 1, 1},
                                 {1, size, 1},
                                 {1, 1, size},
                                 {1, size / other, other},
                                 {size / other, other, 1}}) {
    backend()->connected.clear();
    const Mesh mesh(world(), shape);
    std::map<std::string, int> expected;
    for (const Comm* axis : {&mesh.sequence(), &mesh.tensor(), &mesh.data_sequence()})
      if (axis->size() > 1) expected[axis->axis()] = 1;
    EXPECT_EQ(backend()->connected, expected);
    mesh.data_sequence().connect_gpus();
    EXPECT_EQ(backend()->connected, expected) << "connected again";
  }
}

TEST(Machines, AreTheSameForEveryAxisOfOneMachine) {
  EXPECT_EQ(world().machines(), std::vector<int>(size_t(world().size()), 0));
  EXPECT_EQ(world().local_ranks().rank, world().rank());
  EXPECT_EQ(world().local_ranks().size, world().size());
  const Mesh mesh(world(), {1, world().size(), 1});
  EXPECT_EQ(mesh.sequence().machines(), world().machines());
  EXPECT_EQ(make_self_comm()->local_ranks().size, 1);
}

}  // namespace
}  // namespace spanwise::testing
