#pragma once
// The learning rate as a pure function of the step, so that a resumed run needs no state. Steps count from 1,
// as AdamW's do.
//
//   warm-up    peak · step / warmup_steps, for step ≤ warmup_steps; then
//   kConstant  peak
//   kCosine    half a cosine from peak to min_ratio · peak at total_steps
//   kWsd       peak, then linearly to min_ratio · peak over the last decay_steps of total_steps
//              (warm-up, stable, decay: Hu et al., arXiv 2404.06395)
//
// kCosine and kWsd stay at min_ratio · peak after total_steps.

#include <cstdint>

namespace spanwise {

enum class ScheduleKind { kConstant, kCosine, kWsd };

struct Schedule {
  ScheduleKind kind = ScheduleKind::kConstant;
  double peak = 0;
  double min_ratio = 0;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< unused by kConstant
  int64_t decay_steps = 0;  ///< kWsd alone
};

/// Throws UserError unless peak is positive and finite, min_ratio lies in [0, 1], no number of steps is
/// negative and, for kWsd, warm-up and decay fit into total_steps.
void validate(const Schedule& schedule);

/// For a valid schedule and step ≥ 1.
double learning_rate(const Schedule& schedule, int64_t step);

}  // namespace spanwise
