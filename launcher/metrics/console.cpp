#include "launcher/metrics/console.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace spanwise {

namespace {

std::string format_figures(const StepMetrics& metrics, const StepLineContext& context) {
  std::string text = fmt::format("step {}/{} | loss {:.4f}", metrics.step, context.total_steps, metrics.loss);
  if (context.loss_z_score) text += fmt::format(" ({:+.1f}z)", *context.loss_z_score);
  // Throughput comes from a division by a time; a non-finite one must not reach an integer conversion.
  const bool finite = std::isfinite(metrics.tokens_per_second);
  text += fmt::format(" | norm {:.2f} | lr {:.2e} | {} tok/s | {:.0f} ms", metrics.grad_norm, metrics.lr,
                      finite ? with_commas(std::llround(metrics.tokens_per_second)) : "?", metrics.step_ms);
  text += fmt::format(" | {:.3g} tflops", metrics.tflops);
  if (metrics.mfu_percent) text += fmt::format(" | mfu {:.1f}%", *metrics.mfu_percent);
  if (metrics.validation_loss) {
    text += fmt::format(" | val {:.4f} (ppl {:.2f})", *metrics.validation_loss,
                        std::exp(*metrics.validation_loss));
  }
  return text;
}

}  // namespace

std::string with_commas(int64_t value) {
  const std::string digits = std::to_string(value);
  const size_t sign = value < 0 ? 1 : 0;
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > sign && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string format_step_line(const StepMetrics& metrics, const StepLineContext& context) {
  return fmt::format("{} | ETA {}", format_figures(metrics, context), format_duration(context.remaining_ms));
}

std::string format_live_line(const StepMetrics& metrics, const StepLineContext& context, int columns) {
  constexpr int kBarWidth = 16;
  const double total = static_cast<double>(std::max<int64_t>(context.total_steps, 1));
  const double done = std::clamp(static_cast<double>(metrics.step) / total, 0.0, 1.0);
  const std::string bar(static_cast<size_t>(done * kBarWidth), '=');
  std::string line = fmt::format("[{:<{}}] ETA {} | {}", bar, kBarWidth,
                                 format_duration(context.remaining_ms), format_figures(metrics, context));
  // A character in the last column makes some terminals wrap.
  line.resize(std::min<size_t>(line.size(), std::max(columns - 1, 0)));
  return line;
}

}  // namespace spanwise
