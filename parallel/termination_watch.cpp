#include "parallel/termination_watch.h"

namespace spanwise {

namespace {

// A signal handler can write nowhere else.
volatile sig_atomic_t terminated = 0;

void remember(int) {
  terminated = 1;
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
  if (take()) ::raise(SIGTERM);
}

bool TerminationWatch::came() const {
  return terminated != 0;
}

bool TerminationWatch::take() {
  const bool was_there = came();
  terminated = 0;
  return was_there;
}

}  // namespace spanwise
