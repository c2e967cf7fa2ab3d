#pragma once
// metrics.jsonl: one JSON object a line, "step" first, steps strictly rising. NaN and infinity, which JSON
// cannot say, are written as null.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/metrics/metrics.h"

namespace spanwise {

/// The line of one step, newline included.
std::string history_line(const StepMetrics& metrics);

/// The line of step 0: the held-out loss before training, and no loss of a step.
std::string history_line_before_training(double validation_loss);

struct RewoundHistory {
  std::vector<double> losses;        ///< the last ones that stay, oldest first
  std::optional<int64_t> last_step;  ///< of the lines that stay; none: no line does
  int64_t num_set_aside = 0;         ///< lines that went, a torn one included
  std::filesystem::path set_aside;   ///< the file that has them
};

/// What of a history's text stays up to step `last_step`: its first `kept_bytes`. UserError naming `path` and
/// the line if the text holds anything but records of rising steps.
struct CutHistory {
  RewoundHistory history;  ///< without set_aside
  size_t kept_bytes = 0;
};
CutHistory cut_history(std::string_view content, const std::filesystem::path& path, int64_t last_step,
                       size_t max_losses);

/// Brings the history back to step `last_step`: lines of later steps (written by a run that went on after its
/// last checkpoint and died) and a torn last line go to a new file beside it,
/// PATH.after-step_<last_step>-<n>, before the file is replaced as a whole. A missing file is an empty
/// history. UserError naming the line if the file holds anything but records of rising steps: nothing is
/// changed then.
RewoundHistory rewind_history(const std::filesystem::path& path, int64_t last_step, size_t max_losses);

/// A path that nothing has yet: `path` + `suffix` + "-1", "-2", …
std::filesystem::path unused_path(const std::filesystem::path& path, const std::string& suffix);

}  // namespace spanwise
