#include "parallel/start_watch.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "core/check.h"

namespace spanwise {

namespace {

namespace fs = std::filesystem;

std::string content_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// A variable of an environment as /proc shows it; empty if it is not set.
std::string variable(const std::string& environment, const std::string& name) {
  const std::string all = '\0' + environment, key = '\0' + name + '=';
  const size_t at = all.find(key);
  return at == all.npos ? "" : all.substr(at + key.size(), all.find('\0', at + 1) - at - key.size());
}

std::string program_of(const fs::path& process) {
  std::error_code ignored;
  return fs::read_symlink(process / "exe", ignored).filename().string();
}

char state_of(const fs::path& process) {
  const std::string stat = content_of(process / "stat");
  const size_t end_of_name = stat.rfind(") ");
  return end_of_name == stat.npos || end_of_name + 2 >= stat.size() ? '?' : stat[end_of_name + 2];
}

/// Processes of this user with this job's name in their environment; those of others cannot be read.
std::vector<RankProcess> processes_of_job(const std::string& job) {
  std::vector<RankProcess> found;
  std::error_code error;
  for (fs::directory_iterator at("/proc", error), end; !error && at != end; at.increment(error)) {
    const std::string pid = at->path().filename().string();
    if (pid.find_first_not_of("0123456789") != pid.npos) continue;
    const std::string environment = content_of(at->path() / "environ");
    const std::string rank = variable(environment, "PMIX_RANK");
    if (rank.empty() || variable(environment, "PMIX_NAMESPACE") != job) continue;
    found.push_back(
        {std::atoi(rank.c_str()), std::atoi(pid.c_str()), state_of(at->path()), program_of(at->path())});
  }
  return found;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string sentence(double timeout_seconds) {
  const std::string job = environment("PMIX_NAMESPACE"), rank = environment("PMIX_RANK");
  std::string culprits;
  if (!job.empty()) {
    culprits = blame(processes_of_job(job), program_of("/proc/self"),
                     std::atoi(environment("OMPI_COMM_WORLD_LOCAL_SIZE").c_str()));
  }
  return fmt::format("MPI has not started within {} s on rank {}: {}", timeout_seconds, rank,
                     culprits.empty() ? "no rank of this machine can be seen to be the reason, look at the "
                                        "machines whose ranks say nothing"
                                      : culprits);
}

}  // namespace

std::string blame(const std::vector<RankProcess>& processes, const std::string& program, int expected) {
  struct Rank {
    const RankProcess* stopped = nullptr;
    const RankProcess* other = nullptr;
    bool runs_program = false;
  };
  std::map<int, Rank> ranks;
  for (const RankProcess& process : processes) {
    if (process.state == 'Z') continue;
    Rank& rank = ranks[process.rank];
    if (process.state == 'T' || process.state == 't') rank.stopped = &process;
    if (process.program == program) rank.runs_program = true;
    if (!rank.other) rank.other = &process;
  }
  std::vector<std::string> reasons;
  for (const auto& [number, rank] : ranks) {
    if (rank.stopped) {
      reasons.push_back(fmt::format("rank {} (process {}) is stopped", number, rank.stopped->pid));
    } else if (!rank.runs_program) {
      reasons.push_back(fmt::format("rank {} (process {}) runs '{}', not '{}'", number, rank.other->pid,
                                    rank.other->program, program));
    }
  }
  if (expected > int(ranks.size())) {
    reasons.push_back(fmt::format("of {} ranks on this machine {} are left", expected, ranks.size()));
  }
  return fmt::format("{}", fmt::join(reasons, ", "));
}

StartWatch::StartWatch(double timeout_seconds, std::function<void(const std::string&)> end) {
  if (timeout_seconds <= 0) return;
  thread_ = std::thread([this, timeout_seconds, end = std::move(end)] {
    std::unique_lock lock(mutex_);
    if (!started_.wait_for(lock, std::chrono::duration<double>(timeout_seconds), [this] { return done_; }))
      end(sentence(timeout_seconds));
  });
}

StartWatch::~StartWatch() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  started_.notify_all();
  thread_.join();
}

}  // namespace spanwise
