#include "launcher/runtime.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "parallel/comm.h"

namespace spanwise {

namespace {

int affinity_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

// cgroup v2: "max 100000" or "150000 100000" (microseconds a period). 0 if there is no limit.
int quota_cores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || period <= 0) return 0;
  return std::max(1, int(std::ceil(quota / period)));
}

}  // namespace

int available_cores() {
  const int quota = quota_cores();
  return std::max(1, quota > 0 ? std::min(quota, affinity_cores()) : affinity_cores());
}

int threads_per_rank(int64_t configured, int local_ranks) {
  if (configured > 0) return int(configured);
  const bool bound = affinity_cores() < sysconf(_SC_NPROCESSORS_ONLN);
  return bound ? available_cores() : std::max(1, available_cores() / local_ranks);
}

std::unique_ptr<Context> make_context(const config::RunConfig& config) {
  return std::make_unique<Context>(ContextOptions{
      .num_threads = threads_per_rank(config.train().threads(), read_launch_info().local_size)});
}

}  // namespace spanwise
