#pragma once
// Ends a process whose start waits for ranks that never come. MPI_Init returns when all ranks of the job have
// called it, has no timeout and names nobody; before it there is no communication to ask by. What can be
// looked at is this machine: the launcher leaves job and rank of a process in its environment.

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace spanwise {

/// A process of the job on this machine.
struct RankProcess {
  int rank = 0;
  int pid = 0;
  char state = 'R';     ///< as in /proc/PID/stat
  std::string program;  ///< name of its executable
};

/// The ranks of this machine that keep the others waiting, "rank 1 (process 4711) is stopped", as far as it
/// can be seen: one that is stopped, or of which no process runs `program`, or, with `expected` ranks here,
/// none is left. Empty if there is none. A rank may have several processes, a shell around it, say.
std::string blame(const std::vector<RankProcess>& processes, const std::string& program, int expected);

/// Between its construction and destruction the process starts. If that takes longer than `timeout_seconds`
/// (0: for ever), `end` is called with a sentence, on another thread, and has to end the process.
class StartWatch {
 public:
  StartWatch(double timeout_seconds, std::function<void(const std::string&)> end);
  ~StartWatch();
  StartWatch(const StartWatch&) = delete;
  StartWatch& operator=(const StartWatch&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable started_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace spanwise
