#include "parallel/comm_dry.h"

#include <cstdlib>
#include <numeric>

#include "parallel/comm_backend.h"

namespace spanwise {

namespace {

class DryPending final : public Ticket::Pending {
 public:
  explicit DryPending(std::vector<Tensor> held) : held_(std::move(held)) {}
  void wait() override {}

 private:
  std::vector<Tensor> held_;
};

class DryComm : public Comm {
 public:
  DryComm(int rank, std::vector<int> machines, std::string axis)
      : Comm(rank, int(machines.size()), std::move(axis)) {
    machines_ = std::move(machines);
  }
  std::unique_ptr<Comm> split(int, std::string axis) override {
    SPANWISE_FAIL("axis {} of a dry mesh is not split, into {}", this->axis(), axis);
  }
  void set_timeout(double) override {}
  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  std::unique_ptr<Ticket::Pending> start(Collective collective) override {
    if (collective.held.empty()) answer_on_host(collective);
    return std::make_unique<DryPending>(std::move(collective.held));
  }

  void answer_on_host(const Collective& collective) const {
    using Operation = Collective::Operation;
    switch (collective.operation) {
      case Operation::kAllReduce:
        if (collective.reduce == Reduce::kSum) multiply(collective.output);
        return;
      case Operation::kBroadcast:
      case Operation::kBarrier:
      case Operation::kExchange:  // without a message
        return;
      default:
        SPANWISE_FAIL("{} needs what other ranks have, and there are none in a dry world",
                      describe(collective, axis()));
    }
  }

  void multiply(const CommBlock& sum) const {
    SPANWISE_CHECK(sum.dtype == DType::kF64, "the host's sums are of F64, not {}", name_of(sum.dtype));
    double* values = reinterpret_cast<double*>(sum.data);
    for (int64_t i = 0; i < sum.numel; ++i) values[i] *= size();
  }
};

class DryWorld final : public DryComm {
 public:
  DryWorld(const MeshShape& shape, int rank, std::vector<int> machines)
      : DryComm(rank, std::move(machines), "world"), shape_(shape) {}

  std::unique_ptr<Comm> split(int color, std::string axis) override {
    barrier("split " + axis);  // as over MPI
    const MeshPlace place = place_in_mesh(shape_, axis, rank());
    SPANWISE_CHECK(color == place.color, "axis {} is split by color {}, its place in the mesh has {}", axis,
                   color, place.color);
    std::vector<int> machines;
    for (const int world_rank : place.world_ranks) machines.push_back(this->machines()[size_t(world_rank)]);
    return std::make_unique<DryComm>(place.rank, std::move(machines), std::move(axis));
  }

 private:
  MeshShape shape_;
};

}  // namespace

std::unique_ptr<Comm> make_dry_world(const MeshShape& shape, DryWorldOptions options) {
  std::vector<int> machines(size_t(shape.size()), 0);
  if (options.ranks_per_machine > 0) {
    std::iota(machines.begin(), machines.end(), 0);
    for (int& machine : machines) machine /= options.ranks_per_machine;
  }
  SPANWISE_CHECK(options.rank >= 0 && options.rank < shape.size(), "rank {} of a dry world of {}",
                 options.rank, shape.size());
  return std::make_unique<DryWorld>(shape, options.rank, std::move(machines));
}

}  // namespace spanwise
