#include "core/terminal.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

namespace spanwise {

namespace {

// 0 where it cannot be told.
int width_of(int terminal) {
  winsize size{};
  return ::ioctl(terminal, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

int width_of(const char* device) {
  const int terminal = ::open(device, O_RDONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (terminal < 0) return 0;
  const int width = ::isatty(terminal) ? width_of(terminal) : 0;
  ::close(terminal);
  return width;
}

}  // namespace

int terminal_columns(int descriptor) {
  constexpr int kUnknown = 80;
  // mpirun gives ranks a pseudo-terminal whatever its own output is.
  if (const char* told = std::getenv("SPANWISE_TERMINAL_COLUMNS")) {
    const int columns = std::atoi(told);
    const char* device = std::getenv("SPANWISE_TERMINAL");
    const int now = columns > 0 && device ? width_of(device) : 0;
    return now > 0 ? now : columns;
  }
  if (std::getenv("OMPI_COMM_WORLD_SIZE") || !::isatty(descriptor)) return 0;
  const int width = width_of(descriptor);
  return width > 0 ? width : kUnknown;
}

std::string format_duration(double ms) {
  const auto rounded_to = [ms](double unit_s) { return std::llround(ms / 1000 / unit_s); };
  if (!std::isfinite(ms) || ms < 0) return "?";
  if (const long long s = rounded_to(1); s < 60) return fmt::format("{}s", s);
  if (const long long s = rounded_to(1); s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (const long long m = rounded_to(60); m < 24 * 60) return fmt::format("{}h{:02}m", m / 60, m % 60);
  const long long h = rounded_to(3600);
  return fmt::format("{}d{:02}h", h / 24, h % 24);
}

}  // namespace spanwise
