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
  std::filesystem::path directory = ".";
  double timeout_s = 60;
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
  /// Whether it still runs.
  bool running();
  /// Waits for the end, at most until the timeout.
  ProgramResult wait();

 private:
  int end_everything();

  ProgramOptions options_;
  pid_t pid_ = -1;
  int output_ = -1;
  int status_ = 0;
  bool ended_ = false;
  double start_s_ = 0;
};

/// Starts the program and waits for its end.
ProgramResult run_spanwise(const std::vector<std::string>& arguments, const ProgramOptions& options = {});

}  // namespace spanwise::testing
