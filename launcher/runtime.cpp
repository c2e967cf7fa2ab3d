#include "launcher/runtime.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/check.h"
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

Device compute_device(const config::RunConfig& config) {
  if (config.device() == config::RunConfig::CPU) return Device::kCPU;
  if (config.device() == config::RunConfig::CUDA) return Device::kCUDA;
  return config.train().precision() != config::TrainConfig::F64 && cuda_available() ? Device::kCUDA
                                                                                    : Device::kCPU;
}

std::unique_ptr<Context> make_context(const config::RunConfig& config) {
  const LaunchInfo launch = read_launch_info();
  const Device device = compute_device(config);
  if (device == Device::kCUDA && cuda_available() && launch.local_size > num_gpus()) {
    fail_user(
        "{} ranks were started on this machine and {} of its GPUs can be used; start one rank for each GPU, "
        "or "
        "set device: CPU.",
        launch.local_size, num_gpus());
  }
  return std::make_unique<Context>(
      ContextOptions{.device = device,
                     .num_threads = threads_per_rank(config.train().threads(), launch.local_size),
                     .gpu = device == Device::kCUDA ? launch.local_rank : 0});
}

}  // namespace spanwise
