#include "launcher/metrics/metrics.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <iostream>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/metrics/console.h"
#include "launcher/metrics/history.h"

namespace spanwise {
namespace {

constexpr size_t kLossWindow = 128;     // steps the z-score looks back on
constexpr size_t kMinLosses = 16;       // fewer make no useful standard deviation
constexpr size_t kStepTimeWindow = 32;  // steps the ETA looks back on
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

std::vector<TensorBoardScalar> tensorboard_scalars(const StepMetrics& m) {
  std::vector<TensorBoardScalar> scalars = {
      {"loss_metrics/global_avg_loss", m.loss},
      {"grad_norm", m.grad_norm},
      {"optimizer/lr", m.lr},
      {"n_tokens_seen", static_cast<double>(m.tokens_seen)},
      {"throughput(tps)", m.tokens_per_second},
      {"time_metrics/end_to_end(s)", m.step_ms / 1000},
      {"time_metrics/data_loading(s)", m.data_ms / 1000},
      {"time_metrics/data_loading(%)", m.step_ms > 0 ? 100 * m.data_ms / m.step_ms : 0},
      {"memory/max_active(GiB)", static_cast<double>(m.memory_bytes) / kGiB},
  };
  if (m.validation_loss) {
    scalars.push_back({"validation/loss", *m.validation_loss});
    scalars.push_back({"validation/perplexity", std::exp(*m.validation_loss)});
  }
  for (const auto& [tag, value] : m.extra) scalars.push_back({tag, value});
  return scalars;
}

}  // namespace

int stdout_terminal_columns() {
  // mpirun gives ranks a pseudo-terminal whatever its own output is; only what started it knows
  // (local_mpirun.sh).
  if (const char* columns = std::getenv("SPANWISE_TERMINAL_COLUMNS")) return std::atoi(columns);
  if (std::getenv("OMPI_COMM_WORLD_SIZE") || !::isatty(STDOUT_FILENO)) return 0;
  winsize size{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

MetricsWriter::MetricsWriter(const MetricsOptions& options)
    : options_(options),
      console_(options.console ? *options.console : std::cout),
      losses_(kLossWindow),
      step_ms_(kStepTimeWindow) {
  SPANWISE_CHECK(options_.log_every > 0, "log_every is {}, expected at least 1", options_.log_every);
  make_directories(options_.run_dir);
  const std::filesystem::path path = options_.run_dir / "metrics.jsonl";
  for (const double loss : rewind_history(path, options_.resume_step, kLossWindow)) losses_.add(loss);
  history_.emplace(path);
  if (options_.tensorboard) tensorboard_.emplace(options_.run_dir / "tensorboard", options_.resume_step + 1);
}

MetricsWriter::~MetricsWriter() {
  if (live_line_) console_ << '\n' << std::flush;
}

void MetricsWriter::write(const StepMetrics& metrics) {
  step_ms_.add(metrics.step_ms);
  write_console(metrics);
  losses_.add(metrics.loss);
  history_->append(history_line(metrics));
  if (tensorboard_) tensorboard_->write(metrics.step, tensorboard_scalars(metrics));
}

void MetricsWriter::write_console(const StepMetrics& metrics) {
  const double remaining_ms = step_ms_.mean() * static_cast<double>(options_.total_steps - metrics.step);
  const StepLineContext context{.total_steps = options_.total_steps,
                                .loss_z_score = losses_.z_score(metrics.loss, kMinLosses),
                                .remaining_ms = remaining_ms};
  const bool terminal = options_.terminal_columns > 0;
  const bool last = metrics.step == options_.total_steps;
  if (last || metrics.validation_loss || metrics.step % options_.log_every == 0) {
    message(format_step_line(metrics, context));
  }
  if (terminal && !last) {
    clear_live_line();
    console_ << format_live_line(metrics, context, options_.terminal_columns) << std::flush;
    live_line_ = true;
  }
}

void MetricsWriter::message(std::string_view text) {
  clear_live_line();
  console_ << text << '\n' << std::flush;
}

void MetricsWriter::clear_live_line() {
  constexpr std::string_view kReturnAndErase = "\r\x1b[K";
  if (live_line_) console_ << kReturnAndErase;
  live_line_ = false;
}

void MetricsWriter::sync() {
  history_->sync();
}

}  // namespace spanwise
