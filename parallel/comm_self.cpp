#include <algorithm>
#include <cstdlib>

#include "parallel/comm.h"

namespace spanwise {

namespace {

class SelfComm final : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(const Tensor&, Reduce) override {}
  void all_reduce(std::vector<double>&, Reduce) override {}
  void broadcast(std::string&) override {}
  void barrier() override {}
  void abort(int exit_code) override { std::_Exit(exit_code); }
};

// The first of these environment variables that is set, as a number.
int environment_number(std::initializer_list<const char*> names, int fallback) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name)) return std::max(std::atoi(value), 0);
  }
  return fallback;
}

}  // namespace

std::unique_ptr<Comm> make_self_comm() {
  return std::make_unique<SelfComm>();
}

LaunchInfo read_launch_info() {
  LaunchInfo info;
  info.rank = environment_number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}, 0);
  info.size = environment_number({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 1);
  info.local_size =
      environment_number({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"}, 1);
  info.size = std::max(info.size, 1);
  info.local_size = std::max(info.local_size, 1);
  return info;
}

}  // namespace spanwise
