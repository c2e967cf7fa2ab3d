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

int64_t Module::num_parameters() {
  int64_t total = 0;
  visit("", [&](const std::string&, Param& param) { total += param.numel(); });
  return total;
}

}  // namespace spanwise
