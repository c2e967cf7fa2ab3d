#include "core/optim/schedule.h"

#include <cmath>
#include <numbers>

#include "core/check.h"

namespace spanwise {

namespace {

// From 1 at `begin` to `least` at `end` and after, by `shape` of the part that has passed.
template <class F>
double decayed(int64_t step, int64_t begin, int64_t end, double least, F&& shape) {
  if (step >= end) return least;
  if (step <= begin) return 1.0;
  return least + (1.0 - least) * shape(double(step - begin) / double(end - begin));
}

}  // namespace

void validate(const Schedule& s) {
  if (!(s.peak > 0) || !std::isfinite(s.peak))
    fail_user("The learning rate {} must be a positive number.", s.peak);
  if (!(s.min_ratio >= 0 && s.min_ratio <= 1))
    fail_user("The least learning rate's ratio {} must lie between 0 and 1.", s.min_ratio);
  if (s.warmup_steps < 0 || s.total_steps < 0 || s.decay_steps < 0)
    fail_user("The schedule's {} warm-up, {} decay and {} total steps must not be negative.", s.warmup_steps,
              s.decay_steps, s.total_steps);
  if (s.kind == ScheduleKind::kWsd && s.decay_steps > 0 && s.warmup_steps + s.decay_steps > s.total_steps)
    fail_user(
        "{} warm-up steps and {} decay steps do not fit into the schedule's {} steps; lower one of them.",
        s.warmup_steps, s.decay_steps, s.total_steps);
}

double learning_rate(const Schedule& s, int64_t step) {
  SPANWISE_CHECK(step >= 1, "step={} counts from 1", step);
  if (step <= s.warmup_steps) return s.peak * double(step) / double(s.warmup_steps);
  switch (s.kind) {
    case ScheduleKind::kConstant:
      return s.peak;
    case ScheduleKind::kCosine:
      return s.peak * decayed(step, s.warmup_steps, s.total_steps, s.min_ratio,
                              [](double part) { return 0.5 * (1.0 + std::cos(std::numbers::pi * part)); });
    case ScheduleKind::kWsd:
      return s.peak * decayed(step, s.total_steps - s.decay_steps, s.total_steps, s.min_ratio,
                              [](double part) { return 1.0 - part; });
  }
  SPANWISE_FAIL("schedule kind {} is not known", int(s.kind));
}

}  // namespace spanwise
