#include "parallel/stop_request.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace spanwise {

namespace {

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
constexpr int64_t kSameSignal_ms = 50;
// Of the second that mpirun gives: a step that ends soon is still saved, and time is left for a sentence.
constexpr int64_t kLauncherGrace_ms = 200;

// A signal handler can write nowhere else.
std::atomic<int> first_signal{0};
std::atomic<pid_t> sender{0};
constexpr int64_t kNever = -1;
std::atomic<int64_t> came_at_ms{kNever};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

struct sigaction actions_before[std::size(kSignals)];

int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

// The two deliveries of one signal may be handled by two threads at once: the time decides which is the
// first, so that the other one never sees a signal without its time.
void remember(int signal, siginfo_t* info, void*) {
  const int64_t now = now_ms();
  int64_t first_ms = kNever;
  if (came_at_ms.compare_exchange_strong(first_ms, now)) {
    sender = info->si_pid;
    first_signal = signal;
  } else if (now - first_ms > kSameSignal_ms) {
    // Blocked while this handler runs, it arrives when it returns.
    ::signal(signal, SIG_DFL);
    ::raise(signal);
  }
}

// The time last: a signal that comes meanwhile is taken for the second of the one that is forgotten.
void forget() {
  first_signal = 0;
  came_at_ms = kNever;
}

pid_t parent_of(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string word; status >> word;) {
    pid_t parent = 0;
    if (word == "PPid:" && status >> parent) return parent;
  }
  return 0;
}

/// mpirun and its daemons, by the names of their programs. A shell above mpirun is none: its user's kill asks
/// to save.
bool is_mpirun(pid_t process) {
  std::string name;
  std::ifstream("/proc/" + std::to_string(process) + "/comm") >> name;
  for (const char* prefix : {"mpirun", "mpiexec", "orterun", "orted", "prte"}) {
    if (name.starts_with(prefix)) return true;
  }
  return false;
}

bool is_ancestor(pid_t process) {
  for (pid_t parent = ::getppid(); parent > 1; parent = parent_of(parent)) {
    if (parent == process) return true;
  }
  return false;
}

}  // namespace

StopSignals::StopSignals() {
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    ::sigaction(kSignals[i], nullptr, &actions_before[i]);
    if (actions_before[i].sa_handler == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_sigaction = remember;
    action.sa_flags = SA_RESTART | SA_SIGINFO;
    ::sigaction(kSignals[i], &action, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &actions_before[i], nullptr);
  forget();
}

int stop_signal() {
  return first_signal;
}

bool mpirun_ends_this_process(MpirunSignal when) {
  return first_signal == SIGTERM &&
         (when == MpirunSignal::kAtOnce || now_ms() - came_at_ms > kLauncherGrace_ms) &&
         std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr && is_mpirun(sender) && is_ancestor(sender);
}

bool take_mpirun_signal() {
  if (!mpirun_ends_this_process()) return false;
  forget();
  return true;
}

void end_by_signal(int signal) {
  ::signal(signal, SIG_DFL);
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  ::raise(signal);
  std::_Exit(128 + signal);
}

}  // namespace spanwise
