#include "launcher/config/checks.h"
#include "launcher/config/derived.h"

namespace spanwise {

namespace {

/// Each row is some objects.
constexpr int64_t kMostRows = 1'000'000;

void check_batch(const config::TrainConfig& train, int64_t data, Problems& problems) {
  const int64_t batch = train.global_batch(), micro = train.micro_batch();
  if (batch % (micro * data) == 0) return;
  const int64_t next = (batch / (micro * data) + 1) * micro * data;
  problems.add(
      "train.global_batch {} is not a multiple of train.micro_batch {} x {} data ranks; "
      "set train.global_batch: {}{}",
      batch, micro, data, next,
      batch % data == 0 ? fmt::format(" or train.micro_batch: {}", largest_divisor(batch / data, micro))
                        : "");
}

/// Whether every count is in its range.
bool check_counts(const ConfigToCheck& checked, Problems& problems) {
  const config::ParallelConfig& parallel = checked.config.parallel();
  const config::TrainConfig& train = checked.config.train();
  bool ok = problems.at_least(0, "parallel.data", parallel.data(), kMostRanks);
  ok &= problems.at_least(1, "parallel.sequence", parallel.sequence(), kMostRanks);
  ok &= problems.at_least(1, "parallel.tensor", parallel.tensor(), kMostRanks);
  if (checked.trains() && (parallel.zero_stage() < 0 || parallel.zero_stage() > 3))
    problems.add("parallel.zero_stage is {}; it must be from 0 to 3", parallel.zero_stage());
  if (!(parallel.timeout_seconds() >= 0))
    problems.add("parallel.timeout_seconds is {}; it must be 0 or above", parallel.timeout_seconds());
  if (checked.trains()) ok &= problems.at_least(1, "train.global_batch", train.global_batch());
  ok &= problems.at_least(1, "train.micro_batch", train.micro_batch(), kMostRows);
  return ok;
}

}  // namespace

void check_layout(const ConfigToCheck& checked, Problems& problems) {
  if (!check_counts(checked, problems)) return;
  const config::ParallelConfig& parallel = checked.config.parallel();
  const int64_t shared = parallel.sequence() * parallel.tensor();
  if (parallel.data() == 0 && checked.world_size % shared != 0) {
    problems.add(
        "parallel.sequence {} x parallel.tensor {} does not divide the number of ranks, {}; start {} ranks",
        parallel.sequence(), parallel.tensor(), checked.world_size,
        (checked.world_size / shared + 1) * shared);
    return;
  }
  const int64_t data = data_ranks(parallel, checked.world_size);
  if (data * shared != checked.world_size) {
    problems.add(
        "parallel.data {} x parallel.sequence {} x parallel.tensor {} is not the number of ranks, {}; "
        "start {} ranks or set parallel.data: 0",
        data, parallel.sequence(), parallel.tensor(), checked.world_size, data * shared);
    return;
  }
  if (checked.trains()) check_batch(checked.config.train(), data, problems);
  const int64_t node = parallel.ranks_per_node();
  if (node != 0 && (node < 1 || parallel.sequence() % node != 0)) {
    problems.add("parallel.ranks_per_node {} does not divide parallel.sequence {}", node,
                 parallel.sequence());
  }
}

}  // namespace spanwise
