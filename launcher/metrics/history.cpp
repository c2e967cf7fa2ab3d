#include "launcher/metrics/history.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <deque>
#include <optional>
#include <string_view>

#include "core/check.h"
#include "core/file_io.h"
#include "core/json_quote.h"

namespace spanwise {
namespace {

constexpr std::string_view kLineStart = "{\"step\":";

// The shortest text that reads back as the same number.
std::string json_number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "null";
}

void add_field(std::string& line, std::string_view key, const std::string& value) {
  line += fmt::format(",{}:{}", json_quote(key), value);
}

void add_validation(std::string& line, double loss) {
  add_field(line, "validation_loss", json_number(loss));
  add_field(line, "validation_perplexity", json_number(std::exp(loss)));
}

std::string end_line(std::string& line) {
  const double wall_time =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  add_field(line, "wall_time", fmt::format("{:.3f}", wall_time));
  return line + "}\n";
}

// The number after `prefix` in `line`; empty if the prefix or a number is missing.
template <class Number>
std::optional<Number> number_after(std::string_view line, std::string_view prefix) {
  const size_t at = line.find(prefix);
  if (at == std::string_view::npos) return std::nullopt;
  Number number{};
  const char* first = line.data() + at + prefix.size();
  if (std::from_chars(first, line.data() + line.size(), number).ec != std::errc()) return std::nullopt;
  return number;
}

// The step of a whole line; empty for anything else.
std::optional<int64_t> step_of(std::string_view line) {
  if (!line.starts_with(kLineStart) || !line.ends_with('}')) return std::nullopt;
  return number_after<int64_t>(line, kLineStart);
}

}  // namespace

std::string history_line(const StepMetrics& metrics) {
  std::string line(kLineStart);
  line += std::to_string(metrics.step);
  add_field(line, "loss", json_number(metrics.loss));
  add_field(line, "grad_norm", json_number(metrics.grad_norm));
  add_field(line, "lr", json_number(metrics.lr));
  add_field(line, "tokens_seen", std::to_string(metrics.tokens_seen));
  add_field(line, "tokens_per_second", json_number(metrics.tokens_per_second));
  add_field(line, "step_ms", json_number(metrics.step_ms));
  add_field(line, "tflops", json_number(metrics.tflops));
  if (metrics.mfu_percent) add_field(line, "mfu(%)", json_number(*metrics.mfu_percent));
  add_field(line, "data_ms", json_number(metrics.data_ms));
  add_field(line, "memory_bytes", std::to_string(metrics.memory_bytes));
  if (metrics.validation_loss) add_validation(line, *metrics.validation_loss);
  for (const auto& [key, value] : metrics.extra) add_field(line, key, json_number(value));
  return end_line(line);
}

std::string history_line_before_training(double validation_loss) {
  std::string line(kLineStart);
  line += "0";
  add_field(line, "tokens_seen", "0");
  add_validation(line, validation_loss);
  return end_line(line);
}

std::filesystem::path unused_path(const std::filesystem::path& path, const std::string& suffix) {
  for (int number = 1;; ++number) {
    std::filesystem::path candidate = path;
    candidate += fmt::format("{}-{}", suffix, number);
    std::error_code error;  // what cannot be looked at cannot be written either, which says more
    if (!std::filesystem::exists(std::filesystem::symlink_status(candidate, error))) return candidate;
  }
}

CutHistory cut_history(std::string_view content, const std::filesystem::path& path, int64_t last_step,
                       size_t max_losses) {
  CutHistory cut;
  RewoundHistory& history = cut.history;
  std::deque<double> losses;
  size_t begin = 0;
  int64_t before = -1;
  for (int64_t number = 1; begin < content.size(); ++number) {
    const size_t end = content.find('\n', begin);
    if (end == std::string::npos) break;  // torn: a whole line ends in a newline
    const std::string_view line = content.substr(begin, end - begin);
    const std::optional<int64_t> step = step_of(line);
    if (!step) {
      fail_user("{} line {} is not a metrics record; repair the line or move the file away", path.string(),
                number);
    }
    // A changed digit would otherwise cut off what follows it.
    if (*step <= before) {
      fail_user(
          "{} line {} is of step {} and the line before it of step {}; repair the one that is wrong or "
          "move the file away",
          path.string(), number, *step, before);
    }
    before = *step;
    begin = end + 1;
    if (*step > last_step) {
      ++history.num_set_aside;
      continue;
    }
    if (const auto loss = number_after<double>(line, ",\"loss\":")) losses.push_back(*loss);
    if (losses.size() > max_losses) losses.pop_front();
    history.last_step = *step;
    cut.kept_bytes = begin;
  }
  if (begin < content.size()) ++history.num_set_aside;
  history.losses = {losses.begin(), losses.end()};
  return cut;
}

RewoundHistory rewind_history(const std::filesystem::path& path, int64_t last_step, size_t max_losses) {
  if (!std::filesystem::exists(path)) return {};
  const std::string content = read_file(path);
  auto [history, kept] = cut_history(content, path, last_step, max_losses);
  if (kept < content.size()) {
    const std::string_view whole(content);
    history.set_aside = unused_path(path, fmt::format(".after-step_{:08}", std::max<int64_t>(last_step, 0)));
    write_file(history.set_aside, whole.substr(kept));
    replace_file(path, whole.substr(0, kept));
  }
  return history;
}

}  // namespace spanwise
