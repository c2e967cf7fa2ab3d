#pragma once
// What a training run tells about itself, from its first rank, one call a step:
//   console                    one line every log_every steps; on a terminal a live line with a progress bar
//   below run_dir/metrics.jsonl      one JSON object a line, one gapless history over crashes and resumes
//   run_dir/tensorboard/       event files
// A full disk delays the files, and who reads the console may go: neither stops the run (append_log.h).

#include <cstdint>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/progress.h"
#include "launcher/metrics/append_log.h"
#include "launcher/metrics/rolling_window.h"
#include "launcher/metrics/tensorboard.h"

namespace spanwise {

struct StepMetrics {
  int64_t step = 0;  ///< Optimizer steps done, this one included: the first is 1.
  double loss = 0;   ///< Mean over the global batch's tokens, in nats.
  double grad_norm = 0;
  double lr = 0;
  int64_t tokens_seen = 0;  ///< Over all ranks, since the run's first step.
  double tokens_per_second = 0;
  double step_ms = 0;  ///< End to end.
  double tflops = 0;   ///< 10^12 FLOP/s of one device, of the model's products alone (core/work.h).
  std::optional<double> mfu_percent = std::nullopt;  ///< Of what the device can do, where that is known.
  double data_ms = 0;                                ///< Of step_ms, waiting for the loader.
  int64_t memory_bytes = 0;                          ///< Peak held by this process's tensors so far.
  std::optional<double> validation_loss = std::nullopt;
  /// More scalars; the name is the JSON key and the TensorBoard tag.
  std::vector<std::pair<std::string, double>> extra = {};
};

struct MetricsOptions {
  std::filesystem::path run_dir;
  int64_t total_steps = 0;
  int64_t resume_step = 0;  ///< The checkpoint's step, 0 for a fresh start: later history is set aside.
  bool tensorboard = true;
  int ranks = 1;  ///< What tokens a second are divided by to be one device's.
  /// Width of the terminal on `console`, asked for every live line; 0: not a terminal, plain lines.
  std::function<int()> terminal_columns = [] { return 0; };
  int log_every = 1;                ///< Steps between permanent console lines.
  std::ostream* console = nullptr;  ///< std::cout if null.
};

class MetricsWriter {
 public:
  /// Creates run_dir where missing, and brings metrics.jsonl back to resume_step (history.h).
  explicit MetricsWriter(const MetricsOptions& options);
  /// Ends the live line.
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  void write(const StepMetrics& metrics);
  /// The held-out loss before the first step, as step 0 of the history. Only for a fresh start.
  void write_before_training(double validation_loss);
  /// A line of its own on the console, without breaking the live line.
  void message(std::string_view text);
  /// Shows how far work is that nothing is written during (core/progress.h).
  std::unique_ptr<Progress> progress(const std::string& what, const std::string& unit = "",
                                     int64_t total = 0);
  /// Makes metrics.jsonl durable. Before a checkpoint is committed, so that no resume finds a gap in it.
  void sync();

 private:
  void write_console(const StepMetrics& metrics);
  void clear_live_line();

  MetricsOptions options_;
  std::ostream& console_;
  RollingWindow losses_, step_ms_;
  std::optional<AppendLog> history_;
  std::optional<TensorBoardWriter> tensorboard_;
  bool live_line_ = false;
  bool console_lost_ = false;  ///< its reader has gone, or its disk is full
};

}  // namespace spanwise
