#include "parallel/termination_watch.h"

#include <atomic>

#include "parallel/stop_request.h"

namespace spanwise {

namespace {

// A signal handler can write nowhere else; watches of two threads read it.
std::atomic<bool> terminated{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void remember(int) {
  terminated = true;
}

}  // namespace

TerminationWatch::TerminationWatch() {
  ::sigaction(SIGTERM, nullptr, &before_);
  if ((before_.sa_flags & SA_SIGINFO) != 0 || before_.sa_handler != SIG_DFL) return;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  installed_ = ::sigaction(SIGTERM, &action, nullptr) == 0;
}

TerminationWatch::~TerminationWatch() {
  if (installed_) ::sigaction(SIGTERM, &before_, nullptr);
  if (terminated.exchange(false)) ::raise(SIGTERM);
}

bool TerminationWatch::came() const {
  return terminated || mpirun_ends_this_process();
}

bool TerminationWatch::take() {
  return terminated.exchange(false) || take_mpirun_signal();
}

}  // namespace spanwise
