// What a training shows on a terminal, which is one here.

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/check.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

class Terminal {
 public:
  Terminal(const std::filesystem::path& directory, std::vector<std::string> command, int columns) {
    winsize size = window(columns);
    child_ = ::forkpty(&master_, nullptr, nullptr, &size);
    if (child_ < 0) fail_user("there is no terminal to be had: {}", std::strerror(errno));
    if (child_ > 0) return;
    ::setenv("TERM", "xterm", 1);
    std::vector<char*> argv;
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (::chdir(directory.c_str()) == 0) ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  /// Asks the training to save and end, and reads what it still has to say. Ends it if it does not.
  ~Terminal() {
    ::kill(child_, SIGTERM);
    const auto deadline = Clock::now() + kPatience;
    while (!read_before(deadline).empty()) {
    }
    if (Clock::now() >= deadline) ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    ::close(master_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  void resize(int columns) {
    const winsize size = window(columns);
    ::ioctl(master_, TIOCSWINSZ, &size);
  }
  /// Reads on until a live line of `length` was shown.
  bool shows_live_line_of(size_t length) {
    const auto deadline = Clock::now() + kPatience;
    std::string text;
    while (true) {
      const std::string more = read_before(deadline);
      if (more.empty()) return false;
      text += more;
      for (size_t at = 0; (at = text.find("\x1b[K[", at)) != text.npos; ++at) {
        const size_t begin = at + 3, end = text.find('\r', begin);
        if (end != text.npos && end - begin == length) return true;
      }
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kPatience{30};

  /// What comes next; nothing at the end, or if nothing comes before the deadline.
  std::string read_before(Clock::time_point deadline) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd ready{.fd = master_, .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || ::poll(&ready, 1, int(left.count())) <= 0) return {};
    char buffer[4096];
    const ssize_t count = ::read(master_, buffer, sizeof(buffer));
    return {buffer, size_t(std::max<ssize_t>(count, 0))};
  }
  static winsize window(int columns) {
    winsize size{};
    size.ws_row = 24;
    size.ws_col = static_cast<unsigned short>(columns);
    return size;
  }
  int master_ = -1;
  pid_t child_ = -1;
};

class ProgramTerminal : public TinyRunTest {};

TEST_F(ProgramTerminal, TheLiveLineFollowsTheWidthAloneAndUnderMpirun) {
  for (const int ranks : {0, 2}) {
    SCOPED_TRACE(ranks);
    Terminal terminal(path(""),
                      spanwise_command({"train", "config.textproto", "--set", "train.steps=100000", "--set",
                                        "run.log_every=100", "--set", "run.dir=live" + std::to_string(ranks)},
                                       {.ranks = ranks}),
                      70);
    EXPECT_TRUE(terminal.shows_live_line_of(69));
    terminal.resize(40);
    EXPECT_TRUE(terminal.shows_live_line_of(39));
    terminal.resize(60);
    EXPECT_TRUE(terminal.shows_live_line_of(59));
  }
}

}  // namespace
}  // namespace spanwise::testing
