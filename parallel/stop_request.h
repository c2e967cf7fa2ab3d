#pragma once
// A polite end. The first SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGUSR2 asks a process to end when it has saved
// its work; the second ends it at once. Ranks hear of each other's requests by votes in reductions that they make
// anyway, so that all of them stop at the same place.
//
//   const StopSignals signals;                       // main, before MPI starts
//   StopRequest stop;
//   values.push_back(stop.vote());                   // every rank, in a sum over the world
//   if (stop.agree(values.back())) …                 // true on all ranks or on none

#include <sys/types.h>

#include <atomic>

namespace spanwise {

/// While it lives, the first of the five signals is remembered. What the process ignored before (SIGINT in a
/// script's background job, SIGHUP under nohup) stays ignored. A signal that follows within 50 ms is taken for the same one,
/// sent to the process and to its group. One at a time.
class StopSignals {
 public:
  StopSignals();
  /// Restores what the signals did before, and forgets.
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
};

/// The remembered signal; 0: none.
int stop_signal();

enum class MpirunSignal { kAfterAMoment, kAtOnce };
/// Whether mpirun itself has sent the remembered SIGTERM, a moment ago or just now: it does so when another
/// rank has died, or when it is to end, and SIGKILL follows a second later. A wait that lasts is then in
/// vain.
bool mpirun_ends_this_process(MpirunSignal when = MpirunSignal::kAfterAMoment);
/// The same, and forgets the signal.
bool take_mpirun_signal();

/// Ends this process by a signal, whatever it did with it.
[[noreturn]] void end_by_signal(int signal);

/// What the ranks of a world know of a request. vote() and agree() are for the thread that communicates;
/// agreed() may be asked by any.
class StopRequest {
 public:
  /// 1 if this rank was asked to end, else 0.
  double vote() const { return stop_signal() != 0 ? 1 : 0; }
  /// Takes the sum of the votes. True from the first one on that is not 0.
  bool agree(double sum_of_votes) {
    if (sum_of_votes > 0) agreed_ = true;
    return agreed_;
  }
  bool agreed() const { return agreed_; }

 private:
  std::atomic<bool> agreed_{false};
};

/// Exit code of a run that was asked to end and has saved: start it again to go on (EX_TEMPFAIL of sysexits).
inline constexpr int kExitStopped = 75;

}  // namespace spanwise
