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

std::string affinity_mask() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return "1";
  std::string mask;
  for (int core = 0; core < CPU_SETSIZE; ++core) mask += CPU_ISSET(core, &set) ? '1' : '0';
  mask.resize(mask.rfind('1') + 1);
  return mask;
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

int share_of_cores(const std::vector<std::string>& masks, int mine, int quota) {
  const std::string& own = masks[size_t(mine)];
  double share = 0;
  for (size_t core = 0; core < own.size(); ++core) {
    if (own[core] != '1') continue;
    const auto uses = [core](const std::string& mask) { return core < mask.size() && mask[core] == '1'; };
    share += 1.0 / double(std::count_if(masks.begin(), masks.end(), uses));
  }
  if (quota > 0) share = std::min(share, double(quota) / double(masks.size()));
  return std::max(1, int(share + 1e-6));
}

int threads_of_rank(int64_t configured, Comm& world) {
  const std::vector<std::string> all = world.all_gather("cores", affinity_mask());
  std::vector<std::string> here;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (world.machines()[rank] == world.machines()[size_t(world.rank())]) here.push_back(all[rank]);
  }
  return configured > 0 ? int(configured) : share_of_cores(here, world.local_ranks().rank, quota_cores());
}

Device compute_device(const config::RunConfig& config) {
  if (config.device() == config::RunConfig::CPU) return Device::kCPU;
  if (config.device() == config::RunConfig::CUDA) return Device::kCUDA;
  return config.train().precision() != config::TrainConfig::F64 && cuda_available() ? Device::kCUDA
                                                                                    : Device::kCPU;
}

int gpu_of_rank(LocalRanks local, int visible_gpus) {
  if (visible_gpus == 1) return 0;
  if (local.size > visible_gpus) {
    fail_user(
        "{} ranks were started on this machine and {} of its GPUs can be used; start one rank for each GPU, "
        "bind each rank to one (srun --gpus-per-task=1), or set device: CPU.",
        local.size, visible_gpus);
  }
  return local.rank;
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

std::unique_ptr<Context> make_context(const config::RunConfig& config, Comm& world) {
  ContextOptions options{.device = compute_device(config),
                         .num_threads = threads_of_rank(config.train().threads(), world)};
  std::string gpu;
  if (options.device == Device::kCUDA && cuda_available()) {
    options.gpu = gpu_of_rank(world.local_ranks(), num_gpus());
    gpu = gpu_id(options.gpu);
  }
  // All ranks or none, also where only some of the machines have GPUs.
  if (kHasCuda && config.device() != config::RunConfig::CPU && world.size() > 1)
    require_own_gpus(world.all_gather("gpu_ids", gpu));
  return std::make_unique<Context>(options);
}

}  // namespace spanwise
