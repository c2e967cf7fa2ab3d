#include "core/module.h"

#include <algorithm>
#include <cmath>

namespace spanwise {

namespace init {

Init normal(double stddev) {
  return [=](const RandomStream& random, uint64_t i) { return stddev * random.normal(i); };
}

Init uniform(double low, double high) {
  return [=](const RandomStream& random, uint64_t i) { return random.uniform(i, low, high); };
}

Init constant(double value) {
  return [=](const RandomStream&, uint64_t) { return value; };
}

Init log_uniform_range(double low, double high) {
  // uniform() is in [0, 1); half a step of its 53-bit grid keeps the logarithm finite when low = 0.
  return [=](const RandomStream& random, uint64_t i) {
    return std::log(low + (high - low) * (random.uniform(i) + 0x1p-54));
  };
}

Init dt_bias(double min, double max, double floor) {
  return [=](const RandomStream& random, uint64_t i) {
    const double dt = std::max(std::exp(random.uniform(i, std::log(min), std::log(max))), floor);
    return dt + std::log(-std::expm1(-dt));
  };
}

}  // namespace init

namespace {

void check_placement(const Shape& local, const Placement& placement) {
  SPANWISE_CHECK(placement.global.num_dims() == local.num_dims() && placement.dim >= 0 &&
                     placement.dim < local.num_dims(),
                 "a part {} of {} cannot be sharded along dim {}", local.str(), placement.global.str(),
                 placement.dim);
  int64_t held = 0, end = 0;
  for (const Placement::Range& range : placement.ranges) {
    SPANWISE_CHECK(range.begin >= end && range.end > range.begin,
                   "range [{}, {}) of a sharded parameter does not follow {}", range.begin, range.end, end);
    held += range.end - range.begin;
    end = range.end;
  }
  for (int i = 0; i < local.num_dims(); ++i) {
    const bool sharded = i == placement.dim;
    SPANWISE_CHECK(sharded ? local[i] == held && end <= placement.global[i] : local[i] == placement.global[i],
                   "dim {} of a part {} of {} does not fit ranges of {} elements that end at {}", i,
                   local.str(), placement.global.str(), held, end);
  }
}

}  // namespace

std::vector<ElementRun> element_runs(const Param& param) {
  if (!param.placement.sharded()) return {{0, 0, param.numel()}};
  const Placement& placement = param.placement;
  check_placement(param.shape, placement);
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < placement.dim; ++i) outer *= param.shape[i];
  for (int i = placement.dim + 1; i < param.shape.num_dims(); ++i) inner *= param.shape[i];
  std::vector<ElementRun> runs;
  int64_t local = 0;
  for (int64_t row = 0; row < outer; ++row) {
    for (const Placement::Range& range : placement.ranges) {
      const int64_t count = (range.end - range.begin) * inner;
      runs.push_back({local, (row * placement.global[placement.dim] + range.begin) * inner, count});
      local += count;
    }
  }
  return runs;
}

int64_t Module::num_parameters() {
  int64_t total = 0;
  visit("", [&](const std::string&, Param& param) { total += param.numel(); });
  return total;
}

}  // namespace spanwise
