#pragma once
// The `spanwise` program as its users start it: alone, or on several ranks under launcher/local_mpirun.sh.
// Whatever a test started is gone when its RunningProgram is: this process adopts orphaned ranks and ends
// them.

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace spanwise::testing {

struct ProgramOptions {
  int ranks = 0;  ///< 0: alone, without mpirun
  /// Command of one more, the last rank; `{program}` stands for the program. Empty: there is none.
  std::vector<std::string> other_rank;
  std::filesystem::path directory = ".";
  double timeout_s = 60;
  std::vector<std::string> environment = {};  ///< "NAME=VALUE", added to this process's
  int standard_input = -1;                    ///< A descriptor of this process; -1: it is empty.
};

struct ProgramResult {
  int exit_code = 0;   ///< 128 + signal for a process that a signal ended
  std::string output;  ///< standard output and standard error
  double seconds = 0;
  bool timed_out = false;
  int left_behind = 0;  ///< ranks that still ran a second after the program's end
};

class RunningProgram {
 public:
  RunningProgram(const std::vector<std::string>& arguments, const ProgramOptions& options);
  ~RunningProgram();
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  /// SIGKILL to the last rank, as a machine short of memory would send it.
  void kill_one_rank();
  /// To one rank, or for kStarter to what a user would signal: the program itself, or local_mpirun.sh.
  static constexpr int kStarter = -1;
  void signal(int rank, int number);
  /// To every rank.
  void signal_all(int number);
  /// Whether the rank has a handler for the signal.
  bool listens_to(int rank, int number) const;
  /// Waits until the output holds `text`, at most 30 seconds or to the program's end; false if it never did.
  bool prints(const std::string& text);
  /// What it has written so far.
  std::string output() const;
  /// Whether it still runs.
  bool running();
  /// Waits for the end, at most until the timeout.
  ProgramResult wait();

 private:
  int end_everything();
  /// By rank; without mpirun, the program.
  std::vector<pid_t> ranks() const;

  ProgramOptions options_;
  pid_t pid_ = -1;
  int output_ = -1;
  int status_ = 0;
  bool ended_ = false;
  double start_s_ = 0;
};

/// The words that start it as `options` say.
std::vector<std::string> spanwise_command(const std::vector<std::string>& arguments,
                                          const ProgramOptions& options);

/// Starts the program and waits for its end.
ProgramResult run_spanwise(const std::vector<std::string>& arguments, const ProgramOptions& options = {});

}  // namespace spanwise::testing
