#include "parallel/comm_nccl.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <exception>

#include "parallel/termination_watch.h"

namespace spanwise {

namespace {

using Clock = std::chrono::steady_clock;
using Operation = Collective::Operation;

// NCCL launches from a thread of its own, soon done except where ranks connect for the first time.
constexpr std::chrono::milliseconds kYieldTime{2}, kSleepTime{1};
constexpr std::chrono::seconds kFinalizeTime{5};

void check(cudaError_t error, const char* call) {
  SPANWISE_CHECK(error == cudaSuccess, "{}: {}", call, cudaGetErrorString(error));
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return ncclFloat64;
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kI64:
      return ncclInt64;
    case DType::kI32:
      return ncclInt32;
    case DType::kU8:
      return ncclUint8;
  }
  SPANWISE_FAIL("dtype {}", int(dtype));
}

bool is_error(int result) {
  return result != ncclSuccess && result != ncclInProgress;
}

/// Joined by making the compute stream wait. Dropped without that, the compute stream waits all the same:
/// the operands' memory goes back in its order, and must not be given to others while NCCL works on it.
class NcclPending final : public Ticket::Pending {
 public:
  NcclPending(std::shared_ptr<NcclBackend> backend, std::shared_ptr<NcclLaunch> launch, std::string axis)
      : backend_(std::move(backend)), launch_(std::move(launch)), axis_(std::move(axis)) {}

  ~NcclPending() override {
    if (launch_->joined) return;
    cudaStreamWaitEvent(backend_->compute, launch_->done);
    launch_->call.held.clear();
    const std::string text = describe(launch_->call, axis_) + " was started, but nobody waited for it";
    // While an error unwinds, a stream that still waits for other ranks must not keep it.
    if (std::uncaught_exceptions() > 0) {
      backend_->fail(text);
    } else {
      backend_->failure->set(text);
    }
  }

  void wait() override {
    backend_->failure->check(launch_->call, axis_, "end");
    if (launch_->timed()) check(cudaEventRecord(launch_->join, backend_->compute), "cudaEventRecord");
    check(cudaStreamWaitEvent(backend_->compute, launch_->done), "cudaStreamWaitEvent");
    launch_->joined = true;
    launch_->call.held.clear();
  }

 private:
  std::shared_ptr<NcclBackend> backend_;
  std::shared_ptr<NcclLaunch> launch_;
  std::string axis_;
};

}  // namespace

NcclAxis::NcclAxis(std::shared_ptr<NcclBackend> backend, AxisRanks ranks)
    : backend_(std::move(backend)), ranks_(std::move(ranks)) {
  // Ahead of compute kernels: other ranks wait for it, and it takes few multiprocessors.
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
        "cudaStreamCreateWithPriority");
  const std::lock_guard lock(backend_->mutex);
  backend_->axes.push_back(this);
}

NcclAxis::~NcclAxis() {
  {
    const std::lock_guard lock(backend_->mutex);
    std::erase(backend_->axes, this);
    if (backend_->failure->happened() || std::uncaught_exceptions() > 0) abort();
  }
  if (comm_) {
    ncclCommFinalize(comm_);
    const auto deadline = Clock::now() + kFinalizeTime;
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress && Clock::now() < deadline) ncclCommGetAsyncError(comm_, &state);
    if (state == ncclSuccess) ncclCommDestroy(comm_);
  }
  in_flight_.clear();
  cudaStreamDestroy(stream_);
}

void NcclAxis::connect() {
  const Collective call{.operation = Operation::kBarrier, .name = "connect GPUs"};  // for messages
  ncclUniqueId id{};
  if (ranks_.rank == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (is_error(result)) fail(call, fmt::format("got an error from NCCL: {}", ncclGetLastError(nullptr)));
  }
  ranks_.broadcast(CommBlock(&id, int64_t(sizeof(id)), DType::kU8));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclResult_t result;
  {
    const std::lock_guard lock(backend_->mutex);
    result = ncclCommInitRankConfig(&comm_, ranks_.size(), id, ranks_.rank, &config);
  }
  if (is_error(result)) fail(call, fmt::format("got an error from NCCL: {}", ncclGetErrorString(result)));
  wait_for_launch(call);
}

int NcclAxis::enqueue(const Collective& call) {
  const CommBlock &in = call.input, &out = call.output;
  const ncclDataType_t type = nccl_type(out.dtype);
  switch (call.operation) {
    case Operation::kAllReduce:
      return ncclAllReduce(out.data, out.data, size_t(out.numel), type,
                           call.reduce == Reduce::kSum ? ncclSum : ncclMax, comm_, stream_);
    case Operation::kAllGather:
      return ncclAllGather(in.data, out.data, size_t(in.numel), type, comm_, stream_);
    case Operation::kReduceScatter:
      return ncclReduceScatter(in.data, out.data, size_t(out.numel), type, ncclSum, comm_, stream_);
    case Operation::kBroadcast:
      return ncclBroadcast(out.data, out.data, size_t(out.numel), type, call.root, comm_, stream_);
    default:
      return enqueue_messages(call);
  }
}

int NcclAxis::enqueue_messages(const Collective& call) {
  int worst = ncclGroupStart();
  const auto keep = [&](ncclResult_t result) {
    if (is_error(result) && !is_error(worst)) worst = result;
  };
  const auto send = [&](int peer, const CommBlock& block) {
    keep(ncclSend(block.data, size_t(block.bytes()), ncclUint8, peer, comm_, stream_));
  };
  const auto receive = [&](int peer, const CommBlock& block) {
    keep(ncclRecv(block.data, size_t(block.bytes()), ncclUint8, peer, comm_, stream_));
  };
  if (call.operation == Operation::kAllToAll) {
    const int rank = ranks_.rank, size = ranks_.size();
    for (int step = 1; step < size; ++step) {
      const int from = (rank + size - step) % size, to = (rank + step) % size;
      receive(from, call.output.slice(from, size));
      send(to, call.input.slice(to, size));
    }
  } else {
    for (const Collective::Peer& peer : call.receives) receive(peer.rank, peer.block);
    for (const Collective::Peer& peer : call.sends) send(peer.rank, peer.block);
  }
  keep(ncclGroupEnd());
  return worst;
}

std::unique_ptr<Ticket::Pending> NcclAxis::start(Collective collective) {
  auto launch = std::make_shared<NcclLaunch>(backend_->events, std::move(collective), backend_->recording);
  const Collective& call = launch->call;
  check(cudaEventRecord(launch->ready, backend_->compute), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_, launch->ready), "cudaStreamWaitEvent");
  if (launch->timed()) check(cudaEventRecord(launch->begin, stream_), "cudaEventRecord");
  int result = ncclSuccess;
  {
    const std::lock_guard lock(backend_->mutex);
    if (comm_) result = enqueue(call);
  }
  if (is_error(result)) {
    fail(call, fmt::format("got an error from NCCL: {}: {}", ncclGetErrorString(ncclResult_t(result)),
                           ncclGetLastError(comm_)));
  }
  wait_for_launch(call);
  check(cudaEventRecord(launch->done, stream_), "cudaEventRecord");
  {
    const std::lock_guard lock(backend_->mutex);
    while (!in_flight_.empty() && cudaEventQuery(in_flight_.front()->done) == cudaSuccess)
      in_flight_.pop_front();
    in_flight_.push_back(launch);
  }
  if (launch->timed()) backend_->recorded.push_back({ranks_.name, launch});
  return std::make_unique<NcclPending>(backend_, std::move(launch), ranks_.name);
}

void NcclAxis::wait_for_launch(const Collective& call) {
  const auto begin = Clock::now();
  std::optional<TerminationWatch> watch;
  for (;;) {
    ncclResult_t state = ncclSuccess;
    {
      const std::lock_guard lock(backend_->mutex);
      if (comm_) ncclCommGetAsyncError(comm_, &state);
    }
    backend_->failure->check(call, ranks_.name, "start");
    if (state == ncclSuccess) return;
    if (is_error(state)) {
      fail(call,
           fmt::format("got an error from NCCL: {}: {}", ncclGetErrorString(state), ncclGetLastError(comm_)));
    }
    const std::chrono::duration<double> waited = Clock::now() - begin;
    const double limit = backend_->timeout_seconds();
    if (limit > 0 && waited.count() > limit) {
      fail(call, fmt::format("waited {} s for {} to connect: stopped, dead, or slower than the timeout",
                             limit, ranks_.others()));
    }
    if (watch && watch->take()) {
      const std::string text =
          sentence(call, fmt::format("was told to end (SIGTERM) while it waited for {}", ranks_.others()));
      backend_->fail(text, true);
      SPANWISE_FAIL("{}", text);
    }
    if (waited < kYieldTime) {
      std::this_thread::yield();
    } else {
      if (!watch) watch.emplace();
      std::this_thread::sleep_for(kSleepTime);
    }
  }
}

std::string NcclAxis::sentence(const Collective& call, const std::string& reason) const {
  return fmt::format("{}: rank {} of {} {}", describe(call, ranks_.name), ranks_.rank, ranks_.size(), reason);
}

void NcclAxis::fail(const Collective& call, const std::string& reason) {
  const std::string text = sentence(call, reason);
  backend_->fail(text);
  SPANWISE_FAIL("{}", text);
}

std::optional<std::string> NcclAxis::find_failure(double timeout_seconds, bool told_to_end) {
  const auto now = Clock::now();
  while (!in_flight_.empty() && cudaEventQuery(in_flight_.front()->done) != cudaErrorNotReady)
    in_flight_.pop_front();
  if (in_flight_.empty()) return std::nullopt;
  NcclLaunch& oldest = *in_flight_.front();
  if (!oldest.seen_ready && cudaEventQuery(oldest.ready) == cudaSuccess) oldest.seen_ready = now;
  ncclResult_t state = ncclSuccess;
  if (comm_) ncclCommGetAsyncError(comm_, &state);
  if (is_error(state)) {
    return sentence(oldest.call,
                    fmt::format("was stopped by NCCL while it waited for {}: {}: {}", ranks_.others(),
                                ncclGetErrorString(state), ncclGetLastError(comm_)));
  }
  if (!oldest.seen_ready) return std::nullopt;
  const std::chrono::duration<double> waited = now - *oldest.seen_ready;
  if (told_to_end && waited > kLongWait) {
    return sentence(oldest.call,
                    fmt::format("was told to end (SIGTERM) while it waited for {}", ranks_.others()));
  }
  if (timeout_seconds > 0 && waited.count() > timeout_seconds) {
    return sentence(oldest.call, fmt::format("waited {} s for {}: stopped, dead, or slower than the timeout",
                                             timeout_seconds, ranks_.others()));
  }
  return std::nullopt;
}

void NcclAxis::abort() {
  if (!comm_) return;
  // It may wait for the kernels of another communicator, which is aborted after this one.
  std::thread([comm = comm_] { ncclCommAbort(comm); }).detach();
  comm_ = nullptr;
}

}  // namespace spanwise
