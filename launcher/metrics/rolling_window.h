#pragma once

#include <cmath>
#include <cstddef>
#include <deque>
#include <optional>

namespace spanwise {

/// The last `capacity` finite values; others are not taken in.
class RollingWindow {
 public:
  explicit RollingWindow(size_t capacity) : capacity_(capacity) {}

  void add(double value) {
    if (!std::isfinite(value)) return;
    values_.push_back(value);
    if (values_.size() > capacity_) values_.pop_front();
  }

  size_t size() const { return values_.size(); }

  /// 0 when empty.
  double mean() const {
    double sum = 0;
    for (const double value : values_) sum += value;
    return values_.empty() ? 0 : sum / static_cast<double>(values_.size());
  }

  /// How many standard deviations `value` lies above the mean; empty below `min_values` values, or if all are
  /// equal.
  std::optional<double> z_score(double value, size_t min_values) const {
    if (values_.size() < min_values || !std::isfinite(value)) return std::nullopt;
    const double center = mean();
    double squares = 0;
    for (const double other : values_) squares += (other - center) * (other - center);
    if (squares == 0) return std::nullopt;
    return (value - center) / std::sqrt(squares / static_cast<double>(values_.size()));
  }

 private:
  size_t capacity_;
  std::deque<double> values_;
};

}  // namespace spanwise
