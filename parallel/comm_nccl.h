#pragma once
// The parts of Comm's NCCL backend: comm_nccl.cpp has the axes and their collectives, comm_nccl_watch.cpp
// what the axes share. For those two files only.
//
// The host never waits for a GPU here. Each launched collective keeps two events: `ready`, where the compute
// stream has come to it, and `done`. A thread looks at them: one that is ready and not done within the
// timeout is a lost or stopped rank. Then the failure is noted for the next call of any Comm of the world,
// and all communicators are aborted, which ends their kernels and lets go a host that waits for a stream.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "parallel/comm_backend.h"

struct CUevent_st;
struct ncclComm;

namespace spanwise {

/// Events that are used again. Of all threads.
class GpuEvents {
 public:
  enum class Kind { kOrder, kTimed };
  ~GpuEvents();
  CUevent_st* take(Kind kind);
  void give_back(Kind kind, CUevent_st* event);

 private:
  std::mutex mutex_;
  std::vector<CUevent_st*> free_[2], all_;
};

/// A collective that NCCL has been given.
struct NcclLaunch {
  NcclLaunch(std::shared_ptr<GpuEvents> pool, Collective collective, bool timed);
  ~NcclLaunch();
  NcclLaunch(const NcclLaunch&) = delete;
  NcclLaunch& operator=(const NcclLaunch&) = delete;
  bool timed() const { return begin != nullptr; }

  std::shared_ptr<GpuEvents> events;
  Collective call;  ///< its tensors are held until the join
  CUevent_st *ready, *done;
  CUevent_st *begin = nullptr, *join = nullptr;  ///< in a timeline; `done` has a time, too
  bool joined = false;
  std::optional<std::chrono::steady_clock::time_point> seen_ready;  ///< by the watching thread
};

class NcclBackend;

class NcclAxis final : public GpuAxis {
 public:
  NcclAxis(std::shared_ptr<NcclBackend> backend, AxisRanks ranks);
  ~NcclAxis() override;
  void connect() override;
  std::unique_ptr<Ticket::Pending> start(Collective collective) override;

  // For the watching thread, which holds the backend's mutex.
  /// A collective that has been ready for so long waits for a rank.
  static constexpr std::chrono::milliseconds kLongWait{100};
  /// What is wrong, if anything is: an error of NCCL, or a collective that has been ready for longer than
  /// `timeout_seconds` (0: for ever), or for a long wait where the process was told to end.
  std::optional<std::string> find_failure(double timeout_seconds, bool told_to_end);
  bool any_in_flight() const { return !in_flight_.empty(); }
  /// Takes the communicator away from the axis and ends its kernels; does not wait for that.
  void abort();

 private:
  /// Launches it on the axis's stream: ncclSuccess, ncclInProgress or an error.
  int enqueue(const Collective& call);
  int enqueue_messages(const Collective& call);
  /// Polls until NCCL has launched what it was given; Error after the timeout.
  void wait_for_launch(const Collective& call);
  std::string sentence(const Collective& call, const std::string& reason) const;
  [[noreturn]] void fail(const Collective& call, const std::string& reason);

  std::shared_ptr<NcclBackend> backend_;
  AxisRanks ranks_;
  CUstream_st* stream_ = nullptr;
  ncclComm* comm_ = nullptr;
  std::deque<std::shared_ptr<NcclLaunch>> in_flight_;  ///< in the stream's order
};

class NcclBackend final : public GpuBackend, public std::enable_shared_from_this<NcclBackend> {
 public:
  NcclBackend(Context& ctx, std::shared_ptr<CommFailure> failure);
  ~NcclBackend() override;
  std::unique_ptr<GpuAxis> make_axis(AxisRanks ranks) override;
  void set_timeout(double seconds) override { timeout_seconds_ = seconds; }
  void start_timeline() override;
  CommTimeline take_timeline() override;

  double timeout_seconds() const { return timeout_seconds_; }
  /// Notes the failure and aborts every communicator.
  void fail(const std::string& sentence, bool terminated = false);

  const std::shared_ptr<CommFailure> failure;
  const std::shared_ptr<GpuEvents> events = std::make_shared<GpuEvents>();
  CUstream_st* const compute;
  /// Guards the axes, their communicators and what is in flight.
  std::mutex mutex;
  std::vector<NcclAxis*> axes;
  bool recording = false;
  /// Of the timeline that is being recorded.
  struct Recorded {
    std::string axis;
    std::shared_ptr<NcclLaunch> launch;
  };
  std::vector<Recorded> recorded;

 private:
  void watch();

  int gpu_ = 0;
  std::atomic<double> timeout_seconds_{600};
  CUevent_st* timeline_begin_ = nullptr;
  bool stopping_ = false;
  std::condition_variable stop_;
  std::thread watcher_;
};

}  // namespace spanwise
