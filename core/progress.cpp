#include "core/progress.h"

#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <thread>

namespace spanwise {

using Clock = std::chrono::steady_clock;

std::chrono::milliseconds progress_delay() {
  constexpr int64_t kSeconds = 2, kLongest = 1'000'000;
  const char* given = std::getenv("SPANWISE_PROGRESS_SECONDS");
  const int64_t seconds = given ? std::atoll(given) : kSeconds;
  return std::chrono::seconds(std::clamp<int64_t>(seconds, 0, kLongest));
}

std::string progress_text(const ProgressOptions& options, int64_t done, double elapsed_ms) {
  if (options.total <= 0) return fmt::format("{}: {}", options.what, format_duration(elapsed_ms));
  const double share = std::clamp(double(done) / double(options.total), 0.0, 1.0);
  std::string text = fmt::format("{}: {} of {}{}{} ({:.0f}%)", options.what, done, options.total,
                                 options.unit.empty() ? "" : " ", options.unit, 100 * share);
  if (share > 0) text += fmt::format(", {} left", format_duration(elapsed_ms * (1 - share) / share));
  return text;
}

ProgressOptions progress_on_stderr(const std::string& what, const std::string& unit, int64_t total) {
  ProgressOptions options{.what = what, .unit = unit, .total = total, .out = &std::cerr};
  options.columns = [] { return terminal_columns(STDERR_FILENO); };
  return options;
}

struct Progress::Drawing {
  explicit Drawing(ProgressOptions given)
      : options(std::move(given)), out(options.out ? *options.out : std::cout), thread([this] { run(); }) {}
  ~Drawing() {
    {
      const std::lock_guard lock(mutex);
      ended = true;
    }
    wake.notify_one();
    thread.join();
    if (live) out << "\r\x1b[K" << std::flush;
  }

  void run() {
    using namespace std::chrono_literals;
    const Clock::time_point start = Clock::now();
    std::chrono::milliseconds next = options.delay;
    std::unique_lock lock(mutex);
    while (!wake.wait_until(lock, start + next, [this] { return ended; })) {
      const double elapsed_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
      std::string text = progress_text(options, done, elapsed_ms);
      const int columns = options.columns();
      if (columns > 0) {
        // A character in the last column makes some terminals wrap.
        text.resize(std::min(text.size(), size_t(columns - 1)));
        out << "\r\x1b[K" << text << std::flush;
        live = true;
        next = std::chrono::milliseconds(int64_t(elapsed_ms)) + options.redraw;
      } else {
        out << text << '\n' << std::flush;
        next = std::min<std::chrono::milliseconds>(2 * next, next + 60s);
      }
    }
  }

  const ProgressOptions options;
  std::ostream& out;
  std::atomic<int64_t> done = 0;
  bool live = false;
  bool ended = false;
  std::mutex mutex;
  std::condition_variable wake;
  std::thread thread;  // last: it uses the others
};

Progress::Progress(ProgressOptions options) : drawing_(std::make_unique<Drawing>(std::move(options))) {}
Progress::~Progress() = default;

void Progress::advance_to(int64_t done) {
  drawing_->done = done;
}

}  // namespace spanwise
