// What a training shows on a terminal, which is one here.

#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

class Terminal {
 public:
  Terminal(const std::filesystem::path& directory, std::vector<std::string> command, int columns) {
    winsize size = window(columns);
    child_ = ::forkpty(&master_, nullptr, nullptr, &size);
    if (child_ > 0) return;
    ::setenv("TERM", "xterm", 1);
    std::vector<char*> argv;
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (::chdir(directory.c_str()) == 0) ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  /// Asks the training to save and end, and reads what it still has to say.
  ~Terminal() {
    ::kill(child_, SIGTERM);
    char buffer[4096];
    while (::read(master_, buffer, sizeof(buffer)) > 0) {
    }
    ::waitpid(child_, nullptr, 0);
    ::close(master_);
  }
  void resize(int columns) {
    const winsize size = window(columns);
    ::ioctl(master_, TIOCSWINSZ, &size);
  }
  /// Reads on until a live line of `length` was shown.
  bool shows_live_line_of(size_t length) {
    const auto start = std::chrono::steady_clock::now();
    std::string text;
    char buffer[4096];
    while (std::chrono::steady_clock::now() - start < std::chrono::seconds(30)) {
      const ssize_t count = ::read(master_, buffer, sizeof(buffer));
      if (count <= 0) return false;
      text.append(buffer, size_t(count));
      for (size_t at = 0; (at = text.find("\x1b[K[", at)) != text.npos; ++at) {
        const size_t begin = at + 3, end = text.find('\r', begin);
        if (end != text.npos && end - begin == length) return true;
      }
    }
    return false;
  }

 private:
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
