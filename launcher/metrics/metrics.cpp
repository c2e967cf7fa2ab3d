#include "launcher/metrics/metrics.h"

#include <cmath>
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

std::string with_count(int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

// TensorBoard sorts cards by tag. Most tags are those of torchtitan and flame, so that runs lie over each
// other.
std::vector<TensorBoardScalar> validation_scalars(double loss) {
  return {{"loss_metrics/validation_loss", loss}, {"loss_metrics/validation_perplexity", std::exp(loss)}};
}

// Counted bytes come last; an axis on which nothing travels has no card.
constexpr std::string_view kTraffic = "bytes/";

std::vector<TensorBoardScalar> tensorboard_scalars(const StepMetrics& m, int ranks) {
  std::vector<TensorBoardScalar> scalars = {
      {"loss_metrics/global_avg_loss", m.loss},
      {"optimizer/grad_norm", m.grad_norm},
      {"optimizer/lr", m.lr},
      {"n_tokens_seen", static_cast<double>(m.tokens_seen)},
      {"throughput(tps)", m.tokens_per_second / ranks},
      {"tflops", m.tflops},
      {"time_metrics/end_to_end(s)", m.step_ms / 1000},
      {"time_metrics/data_loading(s)", m.data_ms / 1000},
      {"time_metrics/data_loading(%)", m.step_ms > 0 ? 100 * m.data_ms / m.step_ms : 0},
      {"memory/max_active(GiB)", static_cast<double>(m.memory_bytes) / kGiB},
  };
  if (m.mfu_percent) scalars.push_back({"mfu(%)", *m.mfu_percent});
  if (m.validation_loss) {
    for (TensorBoardScalar& scalar : validation_scalars(*m.validation_loss)) scalars.push_back(scalar);
  }
  for (const auto& [tag, value] : m.extra) {
    const bool traffic = tag.starts_with(kTraffic);
    if (!traffic) scalars.push_back({tag, value});
    if (traffic && value > 0) scalars.push_back({"traffic_" + tag, value});
  }
  return scalars;
}

}  // namespace

MetricsWriter::MetricsWriter(const MetricsOptions& options)
    : options_(options),
      console_(options.console ? *options.console : std::cout),
      losses_(kLossWindow),
      step_ms_(kStepTimeWindow) {
  SPANWISE_CHECK(options_.log_every > 0, "log_every is {}, expected at least 1", options_.log_every);
  make_directories(options_.run_dir);
  const std::filesystem::path path = options_.run_dir / "metrics.jsonl";
  // A fresh start drops the loss before training, step 0, as well.
  const int64_t last = options_.resume_step > 0 ? options_.resume_step : -1;
  const RewoundHistory history = rewind_history(path, last, kLossWindow);
  for (const double loss : history.losses) losses_.add(loss);
  history_.emplace(path);
  if (options_.tensorboard) tensorboard_.emplace(options_.run_dir / "tensorboard", last + 1);
  if (history.num_set_aside > 0) {
    message(fmt::format("{} of {} behind step {} {} in {} now", with_count(history.num_set_aside, "record"),
                        path.string(), options_.resume_step, history.num_set_aside == 1 ? "is" : "are",
                        history.set_aside.string()));
  }
  if (options_.resume_step > 0 && history.last_step.value_or(0) < options_.resume_step) {
    message(fmt::format("warning: {} ends with step {}: the records up to step {} are not in it",
                        path.string(), history.last_step.value_or(0), options_.resume_step));
  }
}

MetricsWriter::~MetricsWriter() {
  if (live_line_) console_ << '\n' << std::flush;
}

void MetricsWriter::write(const StepMetrics& metrics) {
  step_ms_.add(metrics.step_ms);
  write_console(metrics);
  losses_.add(metrics.loss);
  history_->append(history_line(metrics));
  if (tensorboard_) tensorboard_->write(metrics.step, tensorboard_scalars(metrics, options_.ranks));
}

void MetricsWriter::write_before_training(double validation_loss) {
  history_->append(history_line_before_training(validation_loss));
  if (tensorboard_) tensorboard_->write(0, validation_scalars(validation_loss));
}

void MetricsWriter::write_console(const StepMetrics& metrics) {
  const double remaining_ms = step_ms_.mean() * static_cast<double>(options_.total_steps - metrics.step);
  const StepLineContext context{.total_steps = options_.total_steps,
                                .loss_z_score = losses_.z_score(metrics.loss, kMinLosses),
                                .remaining_ms = remaining_ms};
  const int columns = options_.terminal_columns();
  const bool last = metrics.step == options_.total_steps;
  if (last || metrics.validation_loss || metrics.step % options_.log_every == 0) {
    message(format_step_line(metrics, context));
  }
  if (columns > 0 && !last) {
    clear_live_line();
    console_ << format_live_line(metrics, context, columns) << std::flush;
    live_line_ = true;
  }
}

void MetricsWriter::message(std::string_view text) {
  clear_live_line();
  console_ << text << '\n' << std::flush;
  if (console_ || console_lost_) return;
  console_lost_ = true;
  std::cerr << fmt::format(
      "spanwise: warning: standard output cannot be written; training goes on, {} has its "
      "records\n",
      options_.run_dir.string());
}

std::unique_ptr<Progress> MetricsWriter::progress(const std::string& what, const std::string& unit,
                                                  int64_t total) {
  ProgressOptions options{.what = what, .unit = unit, .total = total, .out = &console_};
  options.columns = options_.terminal_columns;
  return std::make_unique<Progress>(std::move(options));
}

void MetricsWriter::clear_live_line() {
  constexpr std::string_view kReturnAndErase = "\r\x1b[K";
  if (live_line_) console_ << kReturnAndErase;
  live_line_ = false;
}

void MetricsWriter::sync() {
  history_->sync();
  if (tensorboard_) tensorboard_->sync();
}

}  // namespace spanwise
