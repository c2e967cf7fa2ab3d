#include <algorithm>
#include <cstdlib>

#include "parallel/comm_backend.h"

namespace spanwise {

namespace {

class SelfComm final : public Comm {
 public:
  explicit SelfComm(std::string axis) : Comm(0, 1, std::move(axis)) {}
  std::unique_ptr<Comm> split(int, std::string axis) override { return make_self_comm(std::move(axis)); }
  void set_timeout(double) override {}
  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  std::unique_ptr<Ticket::Pending> start(Collective collective) override {
    SPANWISE_FAIL("{}: one rank has nobody to talk to", describe(collective, axis()));
  }
};

// The first of these environment variables that is set, as a number.
int environment_number(std::initializer_list<const char*> names, int fallback) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name)) return std::max(std::atoi(value), 0);
  }
  return fallback;
}

}  // namespace

std::unique_ptr<Comm> make_self_comm(std::string axis) {
  return std::make_unique<SelfComm>(std::move(axis));
}

LaunchInfo read_launch_info() {
  LaunchInfo info;
  info.rank = environment_number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}, 0);
  info.size = environment_number({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 1);
  info.local_rank = environment_number({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}, 0);
  info.local_size =
      environment_number({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"}, 1);
  info.size = std::max(info.size, 1);
  info.local_size = std::max(info.local_size, 1);
  return info;
}

}  // namespace spanwise
