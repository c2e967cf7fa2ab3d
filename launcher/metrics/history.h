#pragma once
// metrics.jsonl: one JSON object a line, "step" first, steps strictly rising. NaN and infinity, which JSON
// cannot say, are written as null.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launcher/metrics/metrics.h"

namespace spanwise {

/// The line of one step, newline included.
std::string history_line(const StepMetrics& metrics);

/// The line of step 0: the held-out loss before training, and no loss of a step.
std::string history_line_before_training(double validation_loss);

/// Brings the history back to step `last_step`: lines of later steps (written by a run that went on after its
/// last checkpoint and died) and a torn last line are dropped, by replacing the file as a whole. A missing
/// file is an empty history. Returns the last `max_losses` losses that stay, oldest first. UserError naming
/// the line if the file holds anything else.
std::vector<double> rewind_history(const std::filesystem::path& path, int64_t last_step, size_t max_losses);

}  // namespace spanwise
