#include "launcher/planned_comm.h"

#include <cstdlib>

#include "parallel/comm_backend.h"

namespace spanwise {

namespace {

class PlannedComm final : public Comm {
 public:
  PlannedComm(int rank, int size, std::string axis, MeshShape shape)
      : Comm(rank, size, std::move(axis)), shape_(shape) {}

  /// The axes that a Mesh asks the world for, by their names.
  std::unique_ptr<Comm> split(int, std::string axis) override {
    const int tensor = rank() % shape_.tensor, sequence = rank() / shape_.tensor % shape_.sequence,
              data = rank() / shape_.tensor / shape_.sequence;
    const auto make = [&](int rank, int size) {
      return std::make_unique<PlannedComm>(rank, size, axis, MeshShape{});
    };
    if (axis == "data") return make(data, shape_.data);
    if (axis == "sequence") return make(sequence, shape_.sequence);
    if (axis == "tensor") return make(tensor, shape_.tensor);
    if (axis == "data_sequence") return make(rank() / shape_.tensor, shape_.data * shape_.sequence);
    SPANWISE_FAIL("a planned mesh has no axis {}", axis);
  }
  void set_timeout(double) override {}
  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  std::unique_ptr<Ticket::Pending> start(Collective collective) override {
    SPANWISE_FAIL("{} was started, but this run is only planned", describe(collective, axis()));
  }

  MeshShape shape_;
};

}  // namespace

std::unique_ptr<Comm> make_planned_world(MeshShape shape, int rank) {
  return std::make_unique<PlannedComm>(rank, shape.size(), "world", shape);
}

}  // namespace spanwise
