#pragma once
// The text of the console lines, apart from where they go.

#include <cstdint>
#include <optional>
#include <string>

#include "core/terminal.h"
#include "launcher/metrics/metrics.h"

namespace spanwise {

/// 1234567 -> "1,234,567".
std::string with_commas(int64_t value);

struct StepLineContext {
  int64_t total_steps = 0;
  std::optional<double> loss_z_score = std::nullopt;
  double remaining_ms = 0;
};
/// "step 12/400 | loss 6.2031 (-0.4z) | norm 0.81 | lr 3.00e-04 | 5,312 tok/s | 193 ms | 0.118 tflops | ETA
/// 1m12s"
std::string format_step_line(const StepMetrics& metrics, const StepLineContext& context);

/// The same figures behind a progress bar and the ETA, cut to what fits in `columns` without wrapping.
std::string format_live_line(const StepMetrics& metrics, const StepLineContext& context, int columns);

}  // namespace spanwise
