#pragma once
// While it lives, SIGTERM is remembered instead of ending the process: a rank that waits for others can then
// say what for. (mpirun sends SIGTERM to all ranks when one has died, and SIGKILL a second later.) A program
// that handles or ignores SIGTERM itself keeps doing so; with StopSignals the watch sees only mpirun's own
// SIGTERM, after a moment, and a wait that ends before goes on. Where two overlap, one of them takes it, and
// SIGTERM does again what it did before when the first one made ends.

#include <signal.h>

namespace spanwise {

class TerminationWatch {
 public:
  TerminationWatch();
  /// Restores what SIGTERM did before; one that came and was not taken then does it.
  ~TerminationWatch();
  TerminationWatch(const TerminationWatch&) = delete;
  TerminationWatch& operator=(const TerminationWatch&) = delete;
  bool came() const;
  /// Forgets a SIGTERM that came; true if there was one.
  bool take();

 private:
  struct sigaction before_ {};
  bool installed_ = false;
};

}  // namespace spanwise
