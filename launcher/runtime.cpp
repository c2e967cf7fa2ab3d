#include "launcher/runtime.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include "core/check.h"
#include "core/dispatch.h"

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

int gpu_of_rank(const LaunchInfo& launch, int visible_gpus) {
  if (visible_gpus == 1) return 0;
  const int ranks = std::max(launch.local_size, launch.local_rank + 1);
  if (ranks > visible_gpus) {
    fail_user(
        "{} ranks were started on this machine and {} of its GPUs can be used; start one rank for each GPU, "
        "bind each rank to one (srun --gpus-per-task=1), or set device: CPU.",
        ranks, visible_gpus);
  }
  return launch.local_rank;
}

void require_own_gpus(const std::vector<std::string>& ids) {
  std::map<std::string, size_t> rank_of;
  for (size_t rank = 0; rank < ids.size(); ++rank) {
    if (ids[rank].empty() != ids[0].empty()) {
      fail_user(
          "One of the ranks 0 and {} has a GPU and the other can use none; give each one, or set "
          "device: CPU.",
          rank);
    }
    const auto [other, is_new] = rank_of.emplace(ids[rank], rank);
    if (!is_new && !ids[rank].empty()) {
      fail_user("Ranks {} and {} have the same GPU; start one rank for each GPU, or set device: CPU.",
                other->second, rank);
    }
  }
}

namespace {

/// Every rank's `mine`, gpu_id or empty; a number that travels is a byte.
std::vector<std::string> gather_gpu_ids(Comm& world, const std::string& mine) {
  constexpr size_t kBytes = 16;
  std::vector<double> bytes(size_t(world.size()) * kBytes, 0.0);
  for (size_t i = 0; i < mine.size(); ++i)
    bytes[size_t(world.rank()) * kBytes + i] = static_cast<unsigned char>(mine[i]);
  world.all_reduce("gpu_ids", bytes);
  std::vector<std::string> ids;
  for (int rank = 0; rank < world.size(); ++rank) {
    const auto begin = bytes.begin() + rank * int64_t(kBytes);
    const bool has_one = std::any_of(begin, begin + kBytes, [](double byte) { return byte != 0; });
    ids.push_back(has_one ? std::string(begin, begin + kBytes) : std::string());
  }
  return ids;
}

}  // namespace

std::unique_ptr<Context> make_context(const config::RunConfig& config, Comm& world) {
  const LaunchInfo launch = read_launch_info();
  ContextOptions options{.device = compute_device(config),
                         .num_threads = threads_per_rank(config.train().threads(), launch.local_size)};
  std::string gpu;
  if (options.device == Device::kCUDA && cuda_available()) {
    options.gpu = gpu_of_rank(launch, num_gpus());
    gpu = gpu_id(options.gpu);
  }
  // All ranks or none, also where only some of the machines have GPUs.
  if (kHasCuda && config.device() != config::RunConfig::CPU && world.size() > 1)
    require_own_gpus(gather_gpu_ids(world, gpu));
  return std::make_unique<Context>(options);
}

}  // namespace spanwise
