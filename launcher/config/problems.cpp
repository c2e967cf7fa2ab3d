#include "launcher/config/problems.h"

#include <algorithm>
#include <cmath>

namespace spanwise {

bool Problems::at_least(int64_t low, std::string_view path, int64_t value, int64_t most) {
  if (value < low) add("{} is {}; it must be at least {}", path, value, low);
  if (value > most) add("{} is {}; it must be at most {}", path, value, most);
  return value >= low && value <= most;
}

bool Problems::positive(std::string_view path, double value) {
  const bool ok = value > 0 && std::isfinite(value);
  if (!ok) add("{} is {}; it must be above 0 and finite", path, value);
  return ok;
}

bool Problems::not_negative(std::string_view path, double value) {
  const bool ok = value >= 0 && std::isfinite(value);
  if (!ok) add("{} is {}; it must be 0 or above and finite", path, value);
  return ok;
}

bool Problems::factor(std::string_view path, double value) {
  const bool ok = value > 0 && value <= kMostOfAnything;
  if (!ok) add("{} is {}; it must be above 0 and at most {}", path, value, kMostOfAnything);
  return ok;
}

bool Problems::fraction(std::string_view path, double value, bool with_one) {
  const bool ok = value >= 0 && (value < 1 || (with_one && value == 1));
  if (!ok) add("{} is {}; it must be from 0 to {}1", path, value, with_one ? "" : "below ");
  return ok;
}

bool Problems::divides(std::string_view path, int64_t count, std::string_view axis, int64_t ranks,
                       bool shared) {
  if (count % ranks == 0 || (shared && ranks % count == 0)) return true;
  add("{} {} cannot be divided over {} {}; set {}: {}", path, count, axis, ranks, axis,
      largest_divisor(count, ranks));
  return false;
}

int64_t largest_divisor(int64_t n, int64_t limit) {
  int64_t divisor = std::min(n, limit);
  while (n % divisor != 0) --divisor;
  return divisor;
}

}  // namespace spanwise
