// What the axes of a world share: events, the thread that watches their collectives, and the timeline.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>

#include "parallel/comm_nccl.h"
#include "parallel/termination_watch.h"

namespace spanwise {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPollTime{20};
void check(cudaError_t error, const char* call) {
  SPANWISE_CHECK(error == cudaSuccess, "{}: {}", call, cudaGetErrorString(error));
}

double ms_between(cudaEvent_t begin, cudaEvent_t end) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
  return double(ms);
}

}  // namespace

GpuEvents::~GpuEvents() {
  for (CUevent_st* event : all_) cudaEventDestroy(event);
}

CUevent_st* GpuEvents::take(Kind kind) {
  const std::lock_guard lock(mutex_);
  std::vector<CUevent_st*>& free = free_[int(kind)];
  if (free.empty()) {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, kind == Kind::kTimed ? cudaEventDefault : cudaEventDisableTiming),
          "cudaEventCreateWithFlags");
    all_.push_back(event);
    return event;
  }
  CUevent_st* event = free.back();
  free.pop_back();
  return event;
}

void GpuEvents::give_back(Kind kind, CUevent_st* event) {
  const std::lock_guard lock(mutex_);
  free_[int(kind)].push_back(event);
}

NcclLaunch::NcclLaunch(std::shared_ptr<GpuEvents> pool, Collective collective, bool timed)
    : events(std::move(pool)), call(std::move(collective)) {
  ready = events->take(GpuEvents::Kind::kOrder);
  done = events->take(timed ? GpuEvents::Kind::kTimed : GpuEvents::Kind::kOrder);
  if (!timed) return;
  begin = events->take(GpuEvents::Kind::kTimed);
  join = events->take(GpuEvents::Kind::kTimed);
}

NcclLaunch::~NcclLaunch() {
  events->give_back(GpuEvents::Kind::kOrder, ready);
  events->give_back(timed() ? GpuEvents::Kind::kTimed : GpuEvents::Kind::kOrder, done);
  if (!timed()) return;
  events->give_back(GpuEvents::Kind::kTimed, begin);
  events->give_back(GpuEvents::Kind::kTimed, join);
}

NcclBackend::NcclBackend(Context& ctx, std::shared_ptr<CommFailure> world_failure)
    : failure(std::move(world_failure)), compute(ctx.stream()) {
  // NVLink multicast adds in another order than its fallback, and a host whose switches are not set up for it
  // fails late: only on request.
  ::setenv("NCCL_NVLS_ENABLE", "0", 0);
  check(cudaGetDevice(&gpu_), "cudaGetDevice");
  watcher_ = std::thread([this] { watch(); });
}

NcclBackend::~NcclBackend() {
  {
    const std::lock_guard lock(mutex);
    stopping_ = true;
  }
  stop_.notify_all();
  watcher_.join();
}

std::unique_ptr<GpuAxis> NcclBackend::make_axis(AxisRanks ranks) {
  return std::make_unique<NcclAxis>(shared_from_this(), std::move(ranks));
}

void NcclBackend::fail(const std::string& sentence, bool terminated) {
  failure->set("an earlier one failed: " + sentence, terminated);
  const std::lock_guard lock(mutex);
  for (NcclAxis* axis : axes) axis->abort();
}

void NcclBackend::watch() {
  cudaSetDevice(gpu_);
  // While something is in flight SIGTERM is held back for a moment: if a collective turns out to wait for
  // another rank, it is named.
  std::optional<TerminationWatch> termination;
  constexpr Clock::time_point kNever = Clock::time_point::max();
  Clock::time_point told_to_end = kNever;
  std::unique_lock lock(mutex);
  while (!stop_.wait_for(lock, kPollTime, [this] { return stopping_; })) {
    if (failure->happened()) {
      for (NcclAxis* axis : axes) axis->abort();  // whoever found it: a stream must not wait for ever
      termination.reset();
      continue;
    }
    if (termination && termination->came()) told_to_end = std::min(told_to_end, Clock::now());
    std::optional<std::string> found;
    bool any_in_flight = false;
    for (NcclAxis* axis : axes) {
      if (!found) found = axis->find_failure(timeout_seconds_, told_to_end != kNever);
      any_in_flight |= axis->any_in_flight();
    }
    if (found) {
      if (told_to_end != kNever) termination->take();
      failure->set("an earlier one failed: " + *found, told_to_end != kNever);
      continue;
    }
    if (any_in_flight && !termination) termination.emplace();
    const bool ends = told_to_end != kNever && Clock::now() - told_to_end > 2 * NcclAxis::kLongWait;
    if (!any_in_flight || ends) termination.reset();
    if (!termination) told_to_end = kNever;
  }
}

void NcclBackend::start_timeline() {
  SPANWISE_CHECK(!recording, "a timeline is being recorded already");
  timeline_begin_ = events->take(GpuEvents::Kind::kTimed);
  check(cudaEventRecord(timeline_begin_, compute), "cudaEventRecord");
  recording = true;
}

CommTimeline NcclBackend::take_timeline() {
  SPANWISE_CHECK(recording, "no timeline is being recorded");
  recording = false;
  CUevent_st* const end = events->take(GpuEvents::Kind::kTimed);
  check(cudaEventRecord(end, compute), "cudaEventRecord");
  check(cudaEventSynchronize(end), "cudaEventSynchronize");
  CommTimeline timeline{.total_ms = ms_between(timeline_begin_, end)};
  for (const auto& [axis, launch] : recorded) {
    check(cudaEventSynchronize(launch->done), "cudaEventSynchronize");
    timeline.spans.push_back({.axis = axis,
                              .operation = name_of(launch->call.operation),
                              .name = launch->call.name,
                              .sequence_number = launch->call.sequence_number,
                              .received_bytes = launch->call.received_bytes,
                              .begin_ms = ms_between(timeline_begin_, launch->begin),
                              .end_ms = ms_between(timeline_begin_, launch->done),
                              .join_ms = launch->joined ? ms_between(timeline_begin_, launch->join) : 0,
                              .joined = launch->joined});
  }
  recorded.clear();
  events->give_back(GpuEvents::Kind::kTimed, end);
  events->give_back(GpuEvents::Kind::kTimed, timeline_begin_);
  return timeline;
}

std::shared_ptr<GpuBackend> make_nccl_backend(Context& ctx, std::shared_ptr<CommFailure> failure) {
  return std::make_shared<NcclBackend>(ctx, std::move(failure));
}

}  // namespace spanwise
