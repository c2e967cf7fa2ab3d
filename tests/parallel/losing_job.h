#pragma once
// A job that loses its last rank (lost_rank_program), and what is expected of its end.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/check.h"
#include "tests/testing/temp_dir.h"

namespace spanwise::testing {

using Clock = std::chrono::steady_clock;
constexpr double kEndSeconds = 30;  ///< a job's, start included

inline std::string read_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// False for zombies too: they do nothing any more.
inline bool is_running(pid_t pid) {
  const std::string stat = read_text("/proc/" + std::to_string(pid) + "/stat");
  const size_t end_of_name = stat.rfind(") ");
  return stat.find("(lost_rank") != std::string::npos && end_of_name != std::string::npos &&
         stat[end_of_name + 2] != 'Z';
}

template <class Condition>
bool holds_within(double seconds, Condition condition) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

/// lost_rank_program under mpirun, on CPUs or with a GPU a rank. Whatever of it is left in the end is killed.
class LosingJob {
 public:
  LosingJob(int ranks, const std::string& device, const std::string& how, const std::string& timeout_seconds)
      : ranks_(ranks) {
    const std::string output = dir_ / "output", pids = dir_.path().string(), count = std::to_string(ranks);
    mpirun_ = ::fork();
    if (mpirun_ != 0) return;
    const int file = ::open(output.c_str(), O_CREAT | O_WRONLY, 0600);
    ::dup2(file, STDOUT_FILENO);
    ::dup2(file, STDERR_FILENO);
    ::execl(SPANWISE_SOURCE_DIR "/launcher/local_mpirun.sh", "local_mpirun.sh", count.c_str(),
            LOST_RANK_PROGRAM, how.c_str(), timeout_seconds.c_str(), pids.c_str(), device.c_str(), nullptr);
    ::_exit(127);
  }
  ~LosingJob() {
    if (!ended_) {
      ::kill(mpirun_, SIGKILL);
      ::waitpid(mpirun_, nullptr, 0);
    }
    for (const pid_t pid : running_ranks()) ::kill(pid, SIGKILL);
  }

  /// True if mpirun ends within the time; then exit_code() is its exit code, −1 if a signal ended it.
  bool ends_within(double seconds) {
    return holds_within(seconds, [this] {
      int status = 0;
      if (::waitpid(mpirun_, &status, WNOHANG) != mpirun_) return false;
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      return ended_ = true;
    });
  }
  int ranks() const { return ranks_; }
  int exit_code() const { return exit_code_; }
  std::string output() const { return read_text(dir_ / "output"); }
  int num_started_ranks() const { return int(rank_pids().size()); }
  std::vector<pid_t> running_ranks() const {
    std::vector<pid_t> running;
    for (const pid_t pid : rank_pids()) {
      if (is_running(pid)) running.push_back(pid);
    }
    return running;
  }

 private:
  std::vector<pid_t> rank_pids() const {
    std::vector<pid_t> pids;
    for (int rank = 0; rank < ranks_; ++rank) {
      const std::string text = read_text(dir_ / std::to_string(rank));
      if (!text.empty()) pids.push_back(pid_t(std::stol(text)));
    }
    return pids;
  }

  int ranks_;
  TempDir dir_;
  pid_t mpirun_ = -1;
  bool ended_ = false;
  int exit_code_ = 0;
};

/// Ends with a non-zero code, leaves no process, and a rank that stayed names the
/// collective, its number and axis, and the lost rank.
inline void expect_ended_and_explained(LosingJob& job) {
  ASSERT_TRUE(job.ends_within(kEndSeconds)) << job.output();
  EXPECT_EQ(job.num_started_ranks(), job.ranks()) << job.output();
  EXPECT_GT(job.exit_code(), 0) << job.output();
  EXPECT_NE(job.output().find("all_reduce 'gradients' #3 on axis data: rank "), std::string::npos)
      << job.output();
  EXPECT_NE(job.output().find(fmt::format(" of {} w", job.ranks())), std::string::npos) << job.output();
  EXPECT_NE(job.output().find(fmt::format("for world rank {}", job.ranks() - 1)), std::string::npos)
      << job.output();
  EXPECT_TRUE(holds_within(5, [&] { return job.running_ranks().empty(); }));
}

inline void expect_ended_saying(LosingJob& job, const std::string& text) {
  ASSERT_TRUE(job.ends_within(kEndSeconds)) << job.output();
  EXPECT_GT(job.exit_code(), 0) << job.output();
  EXPECT_NE(job.output().find(text), std::string::npos) << job.output();
}

}  // namespace spanwise::testing
