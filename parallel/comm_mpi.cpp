// Comm over MPI. Every collective that carries data is sends and receives between pairs of ranks, so each
// rank receives exactly the bytes the header counts, reductions keep their order, and a timeout can name the
// rank that did not answer. Collectives of GPU tensors go to the GPU backend of the same world.

#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <thread>

#include "core/dispatch.h"
#include "parallel/comm_backend.h"
#include "parallel/start_watch.h"
#include "parallel/stop_request.h"
#include "parallel/termination_watch.h"

namespace spanwise {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kYieldTime{500}, kSleepTime{50};
constexpr std::chrono::milliseconds kGoodbyeTime{100}, kProbeTime{20};
constexpr int64_t kStartTag = 1;
constexpr double kRootSpeaksFirstSeconds = 2;

std::string error_text(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, size_t(length));
}

void check(int code, const char* call) {
  SPANWISE_CHECK(code == MPI_SUCCESS, "{} failed: {}", call, error_text(code));
}

void end_start(const std::string& sentence) {
  std::fprintf(stderr, "spanwise: error: %s\n", sentence.c_str());
  std::_Exit(1);
}

class MpiCollective;

/// MPI itself, started and ended by this object, and what all communicators of the process share.
class MpiRuntime {
 public:
  explicit MpiRuntime(WorldOptions world_options)
      : options(std::move(world_options)), timeout_seconds(options.start_timeout_seconds) {
    const StartWatch watch(options.start_timeout_seconds, options.end_start ? options.end_start : end_start);
    int provided = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  /// After an error other ranks may never arrive: MPI_Finalize would wait for them for ever.
  ~MpiRuntime() {
    if (healthy()) MPI_Finalize();
  }
  bool healthy() const { return !failure->happened() && std::uncaught_exceptions() == 0; }
  void progress();

  // A rank that ends the job has said why; it tells the others, which then need not say that they were ended.
  // Goodbyes are all that MPI_COMM_WORLD itself carries.
  void say_goodbye();
  bool somebody_said_goodbye() const;

  const WorldOptions options;
  double timeout_seconds;
  const std::shared_ptr<CommFailure> failure =
      std::make_shared<CommFailure>([this] { return somebody_said_goodbye(); });
  std::shared_ptr<GpuBackend> gpu;  ///< none without use_gpu
  std::vector<MpiCollective*> in_flight;
  std::vector<int> machines;  ///< by world rank
  /// Memory that MPI may still write to, of collectives that nobody waited for.
  struct Abandoned {
    std::vector<Tensor> held;
    std::vector<char> scratch;
  };
  std::vector<Abandoned> abandoned;
};

/// A communicator, freed with the last reference: its Comm, and its collectives in flight.
struct MpiAxis {
  MpiAxis(std::shared_ptr<MpiRuntime> mpi, MPI_Comm communicator, std::string axis_name)
      : runtime(std::move(mpi)), comm(communicator), name(std::move(axis_name)) {
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
  }
  ~MpiAxis() {
    if (comm != MPI_COMM_WORLD && runtime->healthy()) MPI_Comm_free(&comm);
  }
  MpiAxis(const MpiAxis&) = delete;
  MpiAxis& operator=(const MpiAxis&) = delete;

  /// Of all ranks of the axis.
  std::vector<int> world_ranks() const {
    MPI_Group mine, world;
    std::vector<int> peers(size_t(size), 0), translated(size_t(size), MPI_UNDEFINED);
    std::iota(peers.begin(), peers.end(), 0);
    MPI_Comm_group(comm, &mine);
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_translate_ranks(mine, size, peers.data(), world, translated.data());
    MPI_Group_free(&mine);
    MPI_Group_free(&world);
    return translated;
  }
  int world_rank(int peer) const { return world_ranks()[size_t(peer)]; }

  std::shared_ptr<MpiRuntime> runtime;
  MPI_Comm comm;
  std::string name;
  int rank = 0, size = 1;
};

/// A collective in flight: stages of requests, each begun when the one before is complete.
class MpiCollective final : public Ticket::Pending {
 public:
  MpiCollective(std::shared_ptr<MpiAxis> axis, Collective call)
      : axis_(std::move(axis)), runtime_(*axis_->runtime), call_(std::move(call)) {
    runtime_.in_flight.push_back(this);
  }
  ~MpiCollective() override;

  /// Begins stage after stage until one has requests that take time, or all are done.
  void begin_stages() {
    while (requests_.empty() && !done_) done_ = !begin_stage(stage_++);
  }
  void wait() override;
  /// Begins the next stages as far as messages have arrived.
  void progress();

 private:
  struct Pending {
    int peer;                ///< -1: all ranks
    int64_t received_bytes;  ///< expected; -1: not a receive
  };

  /// Posts the requests of a stage, none if nothing is to be moved; false if there is no such stage.
  bool begin_stage(int64_t stage);
  bool begin_all_reduce(int64_t stage);
  bool begin_reduce_scatter(int64_t stage);
  bool begin_barrier(int64_t stage);
  /// The blocks of a piece in rank order, to be reduced: this rank's own, the others' in scratch memory.
  std::vector<CommBlock> receive_into_scratch(const CommBlock& own);
  void send(int peer, const CommBlock& block);
  void receive(int peer, const CommBlock& block);
  MPI_Request& add_request(int peer, int64_t received_bytes);
  void check_call(int code);
  void check_received(const std::vector<MPI_Status>& statuses);
  int tag() const { return int(call_.sequence_number & 0x7fff); }  // 32767 is allowed everywhere
  [[noreturn]] void fail(const std::string& reason);
  /// "world rank 2, 3", as far as they are known.
  std::string awaited_ranks() const;
  bool waits_for_root() const {
    return call_.operation == Collective::Operation::kBarrier && axis_->rank > 0;
  }
  /// Of this wait, where there is one.
  double timeout_seconds() const;

  std::shared_ptr<MpiAxis> axis_;
  MpiRuntime& runtime_;
  Collective call_;
  int64_t stage_ = 0;
  bool done_ = false, joined_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<Pending> pending_;
  std::vector<char> scratch_;
  std::vector<CommBlock> reduced_;  ///< what the piece in flight is the reduction of
};

void MpiRuntime::progress() {
  // A collective may finish, but none starts or ends its life in here.
  for (MpiCollective* collective : in_flight) collective->progress();
}

void MpiRuntime::say_goodbye() {
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  std::vector<MPI_Request> requests;
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    MPI_Isend(nullptr, 0, MPI_BYTE, peer, 0, MPI_COMM_WORLD, &requests.emplace_back(MPI_REQUEST_NULL));
  }
  const auto deadline = Clock::now() + kGoodbyeTime;
  int complete = 0;
  while (!complete && Clock::now() < deadline) {
    MPI_Testall(int(requests.size()), requests.data(), &complete, MPI_STATUSES_IGNORE);
  }
}

bool MpiRuntime::somebody_said_goodbye() const {
  int arrived = 0;
  // A first probe may only receive what the next one reports, and where GPUs communicate nothing else
  // receives.
  const auto deadline = Clock::now() + kProbeTime;
  do {
    MPI_Iprobe(MPI_ANY_SOURCE, 0, MPI_COMM_WORLD, &arrived, MPI_STATUS_IGNORE);
  } while (!arrived && Clock::now() < deadline);
  return arrived != 0;
}

MpiCollective::~MpiCollective() {
  std::erase(runtime_.in_flight, this);
  if (joined_) return;
  runtime_.failure->set(describe(call_, axis_->name) + " was started, but nobody waited for it");
  runtime_.abandoned.push_back({std::move(call_.held), std::move(scratch_)});
}

void MpiCollective::fail(const std::string& reason) {
  const std::string text =
      fmt::format("{}: rank {} of {} {}", describe(call_, axis_->name), axis_->rank, axis_->size, reason);
  runtime_.failure->set("an earlier one failed: " + text);
  SPANWISE_FAIL("{}", text);
}

std::string MpiCollective::awaited_ranks() const {
  std::set<int> silent;
  for (size_t i = 0; i < requests_.size(); ++i) {
    int complete = 0;
    MPI_Request_get_status(requests_[i], &complete, MPI_STATUS_IGNORE);
    if (!complete && pending_[i].peer >= 0) silent.insert(axis_->world_rank(pending_[i].peer));
  }
  // What a root sends may wait for others.
  if (call_.operation == Collective::Operation::kBroadcast)
    return fmt::format("world rank {} or a rank that passes its data on", axis_->world_rank(call_.root));
  if (waits_for_root()) return fmt::format("world rank {} or a rank that it waits for", axis_->world_rank(0));
  return silent.empty() ? "other ranks" : fmt::format("world rank {}", fmt::join(silent, ", "));
}

double MpiCollective::timeout_seconds() const {
  // Rank 0 knows whom a barrier waits for, and speaks first.
  return runtime_.timeout_seconds + (waits_for_root() ? kRootSpeaksFirstSeconds : 0);
}

void MpiCollective::check_call(int code) {
  if (code == MPI_SUCCESS) return;
  int error_class = code;
  MPI_Error_class(code, &error_class);
  fail(fmt::format("got an error from MPI: {}{}", error_text(code),
                   error_class == MPI_ERR_TRUNCATE ? "; the ranks do not make the same calls" : ""));
}

MPI_Request& MpiCollective::add_request(int peer, int64_t received_bytes) {
  pending_.push_back({peer, received_bytes});
  return requests_.emplace_back(MPI_REQUEST_NULL);
}

void MpiCollective::send(int peer, const CommBlock& block) {
  const int64_t limit = runtime_.options.max_message_bytes;
  for (int64_t begin = 0; begin < block.bytes(); begin += limit) {
    const int count = int(std::min(limit, block.bytes() - begin));
    check_call(
        MPI_Isend(block.data + begin, count, MPI_BYTE, peer, tag(), axis_->comm, &add_request(peer, -1)));
  }
}

void MpiCollective::receive(int peer, const CommBlock& block) {
  const int64_t limit = runtime_.options.max_message_bytes;
  for (int64_t begin = 0; begin < block.bytes(); begin += limit) {
    const int count = int(std::min(limit, block.bytes() - begin));
    check_call(
        MPI_Irecv(block.data + begin, count, MPI_BYTE, peer, tag(), axis_->comm, &add_request(peer, count)));
  }
}

bool MpiCollective::begin_stage(int64_t stage) {
  using Operation = Collective::Operation;
  if (call_.operation == Operation::kAllReduce) return begin_all_reduce(stage);
  if (call_.operation == Operation::kReduceScatter) return begin_reduce_scatter(stage);
  if (call_.operation == Operation::kBarrier) return begin_barrier(stage);
  if (stage > 0) return false;
  const int rank = axis_->rank, size = axis_->size;
  switch (call_.operation) {
    case Operation::kAllGather:
    case Operation::kAllToAll:
      // Peers in the order of their distance, so that not all ranks send to the same one at once.
      for (int step = 1; step < size; ++step) {
        const int from = (rank + size - step) % size, to = (rank + step) % size;
        receive(from, call_.output.slice(from, size));
        send(to, call_.operation == Operation::kAllGather ? call_.input : call_.input.slice(to, size));
      }
      return true;
    case Operation::kExchange:
      for (const Collective::Peer& peer : call_.receives) receive(peer.rank, peer.block);
      for (const Collective::Peer& peer : call_.sends) send(peer.rank, peer.block);
      return true;
    case Operation::kBroadcast: {
      const int64_t limit = runtime_.options.max_message_bytes;
      for (int64_t begin = 0; begin < call_.output.bytes(); begin += limit) {
        check_call(MPI_Ibcast(call_.output.data + begin, int(std::min(limit, call_.output.bytes() - begin)),
                              MPI_BYTE, call_.root, axis_->comm, &add_request(-1, -1)));
      }
      return true;
    }
    default:
      SPANWISE_FAIL("operation {}", int(call_.operation));
  }
}

std::vector<CommBlock> MpiCollective::receive_into_scratch(const CommBlock& own) {
  std::vector<CommBlock> blocks;
  scratch_.resize(size_t(own.bytes() * axis_->size));
  for (int peer = 0; peer < axis_->size; ++peer) {
    blocks.emplace_back(scratch_.data() + own.bytes() * peer, own.numel, own.dtype);
    if (peer == axis_->rank) blocks[peer] = own;
    if (peer != axis_->rank) receive(peer, blocks[peer]);
  }
  return blocks;
}

// Pieces of the tensor, one after the other, each in two stages: every rank reduces its slice of the piece,
// then gathers the other slices.
bool MpiCollective::begin_all_reduce(int64_t stage) {
  const int rank = axis_->rank, size = axis_->size;
  const int64_t elem_bytes = int64_t(size_of(call_.output.dtype));
  const int64_t limit = std::max<int64_t>(1, runtime_.options.reduction_scratch_bytes / elem_bytes);
  const int64_t begin = stage / 2 * limit;
  if (begin >= call_.output.numel) return false;
  const CommBlock piece = call_.output.range(begin, std::min(begin + limit, call_.output.numel));
  const auto slice_of = [&](int r) {
    return piece.range(piece.numel * r / size, piece.numel * (r + 1) / size);
  };
  if (stage % 2 == 0) {
    reduced_ = receive_into_scratch(slice_of(rank));
    for (int step = 1; step < size; ++step) send((rank + step) % size, slice_of((rank + step) % size));
    return true;
  }
  reduce_in_order(reduced_, call_.reduce, slice_of(rank));
  for (int step = 1; step < size; ++step) {
    const int from = (rank + size - step) % size;
    receive(from, slice_of(from));
    send((rank + step) % size, slice_of(rank));
  }
  return true;
}

// Pieces of every rank's slice, one after the other; a stage first reduces the piece of the stage before.
bool MpiCollective::begin_reduce_scatter(int64_t stage) {
  const int rank = axis_->rank, size = axis_->size;
  const int64_t numel = call_.output.numel, row_bytes = int64_t(size_of(call_.output.dtype)) * size;
  const int64_t limit = std::max<int64_t>(1, runtime_.options.reduction_scratch_bytes / row_bytes);
  const int64_t begin = stage * limit, end = std::min(begin + limit, numel);
  if (stage > 0)
    reduce_in_order(reduced_, call_.reduce, call_.output.range(begin - limit, std::min(begin, numel)));
  if (begin >= numel) return false;
  reduced_ = receive_into_scratch(call_.input.slice(rank, size).range(begin, end));
  for (int step = 1; step < size; ++step) {
    const int to = (rank + step) % size;
    send(to, call_.input.slice(to, size).range(begin, end));
  }
  return true;
}

// A byte from every rank to the axis's rank 0, which then answers: rank 0 knows who is missing.
bool MpiCollective::begin_barrier(int64_t stage) {
  if (stage > 1) return false;
  scratch_.resize(size_t(axis_->size));
  const auto byte_of = [&](int peer) { return CommBlock(&scratch_[size_t(peer)], 1, DType::kU8); };
  if (axis_->rank > 0) {
    if (stage == 0) send(0, byte_of(0));
    if (stage == 1) receive(0, byte_of(0));
    return true;
  }
  for (int peer = 1; peer < axis_->size; ++peer) {
    if (stage == 0) receive(peer, byte_of(peer));
    if (stage == 1) send(peer, byte_of(0));
  }
  return true;
}

void MpiCollective::progress() {
  if (done_) return;
  std::vector<MPI_Status> statuses(requests_.size());
  int complete = 0;
  const int code = MPI_Testall(int(requests_.size()), requests_.data(), &complete, statuses.data());
  if (code == MPI_ERR_IN_STATUS) {
    for (const MPI_Status& status : statuses) {
      if (status.MPI_ERROR != MPI_ERR_PENDING) check_call(status.MPI_ERROR);
    }
  }
  check_call(code);
  if (!complete) return;
  check_received(statuses);
  requests_.clear();
  pending_.clear();
  begin_stages();
}

void MpiCollective::check_received(const std::vector<MPI_Status>& statuses) {
  for (size_t i = 0; i < statuses.size(); ++i) {
    if (pending_[i].received_bytes < 0) continue;
    int count = 0;
    MPI_Get_count(&statuses[i], MPI_BYTE, &count);
    if (count == pending_[i].received_bytes) continue;
    fail(fmt::format("expected {} bytes from world rank {} and got {}; the ranks do not make the same calls",
                     pending_[i].received_bytes, axis_->world_rank(pending_[i].peer), count));
  }
}

void MpiCollective::wait() {
  const auto begin = Clock::now();
  std::optional<TerminationWatch> watch;
  // Every collective in flight is moved along, whatever this one waits for: ranks may wait in different
  // orders, and the others may need a later stage of another collective first.
  for (runtime_.progress(); !done_; runtime_.progress()) {
    runtime_.failure->check(call_, axis_->name, "end");  // the GPU's thread may have found one
    const auto waited = Clock::now() - begin;
    if (runtime_.timeout_seconds > 0 && waited > std::chrono::duration<double>(timeout_seconds())) {
      fail(fmt::format("waited {} s for {}: stopped, dead, or slower than the timeout",
                       runtime_.timeout_seconds, awaited_ranks()));
    }
    if (watch && watch->came()) {
      // Where another rank has explained the end, this one ends silently.
      if (runtime_.somebody_said_goodbye()) end_by_signal(SIGTERM);
      watch->take();
      fail(fmt::format("was told to end (SIGTERM) while it waited for {}", awaited_ranks()));
    }
    // Soon answered where every rank has a core; where ranks share cores, the others need this one.
    if (waited < kYieldTime) {
      std::this_thread::yield();
    } else {
      if (!watch) watch.emplace();
      std::this_thread::sleep_for(kSleepTime);
    }
  }
  joined_ = true;
}

class MpiComm final : public Comm {
 public:
  explicit MpiComm(std::shared_ptr<MpiAxis> axis)
      : Comm(axis->rank, axis->size, axis->name), axis_(std::move(axis)) {
    const std::vector<int>& machines = axis_->runtime->machines;
    for (size_t peer = 0; const int world_rank : axis_->world_ranks())
      machines_[peer++] = machines[size_t(world_rank)];
  }

  std::unique_ptr<Comm> split(int color, std::string axis) override {
    // MPI_Comm_split has no timeout; after the barrier all ranks are about to call it.
    barrier("split " + axis);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(axis_->comm, color, rank(), &part), "MPI_Comm_split");
    auto part_axis = std::make_shared<MpiAxis>(axis_->runtime, part, axis);
    if (part_axis->size == 1) return make_self_comm(std::move(axis));
    return std::make_unique<MpiComm>(std::move(part_axis));
  }

  void set_timeout(double seconds) override {
    axis_->runtime->timeout_seconds = seconds;
    if (axis_->runtime->gpu) axis_->runtime->gpu->set_timeout(seconds);
  }

  void use_gpu(Context& ctx) override {
    MpiRuntime& runtime = *axis_->runtime;
    const auto& other_backend = runtime.options.gpu_backend;
    if (ctx.device() == Device::kCPU && !other_backend) return;
    SPANWISE_CHECK(!runtime.gpu, "this world uses a GPU already");
    if (other_backend) {
      runtime.gpu = other_backend(runtime.failure);
    } else if constexpr (kHasCuda) {
      runtime.gpu = make_nccl_backend(ctx, runtime.failure);
    }
    runtime.gpu->set_timeout(runtime.timeout_seconds);
  }

  void connect_gpus() override {
    if (!axis_->runtime->gpu || gpu_axis_) return;
    AxisRanks ranks{.name = axis(), .rank = rank(), .world_ranks = axis_->world_ranks()};
    // Not counted: traffic is the same on every device.
    ranks.broadcast = [this](const CommBlock& bytes) {
      start({.operation = Collective::Operation::kBroadcast, .name = "connect GPUs", .output = bytes})
          ->wait();
    };
    gpu_axis_ = gpu_backend().make_axis(std::move(ranks));
    gpu_axis_->connect();
  }

  void start_timeline() override { gpu_backend().start_timeline(); }
  CommTimeline take_timeline() override { return gpu_backend().take_timeline(); }

  void abort(int exit_code) override {
    // Lost peers must not keep MPI_Abort from ending this process: SIGALRM does then.
    alarm(10);
    axis_->runtime->say_goodbye();
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  std::unique_ptr<Ticket::Pending> start(Collective collective) override {
    MpiRuntime& runtime = *axis_->runtime;
    runtime.failure->check(collective, axis(), "start");
    runtime.progress();
    if (collective.device == Device::kCUDA) {
      SPANWISE_CHECK(gpu_axis_, "{}: connect_gpus has not been called", describe(collective, axis()));
      return gpu_axis_->start(std::move(collective));
    }
    auto pending = std::make_unique<MpiCollective>(axis_, std::move(collective));
    pending->begin_stages();
    return pending;
  }

  GpuBackend& gpu_backend() const {
    SPANWISE_CHECK(axis_->runtime->gpu, "axis {} has no GPU: nobody has called use_gpu", axis());
    return *axis_->runtime->gpu;
  }

  std::shared_ptr<MpiAxis> axis_;
  std::unique_ptr<GpuAxis> gpu_axis_;
};

bool started_by_a_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name)) return true;
  }
  return false;
}

/// Returns when all ranks have come, naming those that do not: MPI's own collectives, which follow, have no
/// timeout.
void meet(const std::shared_ptr<MpiRuntime>& runtime) {
  const auto everybody = std::make_shared<MpiAxis>(runtime, MPI_COMM_WORLD, "world");
  if (everybody->size == 1) return;
  // Under another tag than goodbyes.
  MpiCollective start(
      everybody,
      {.operation = Collective::Operation::kBarrier, .name = "start", .sequence_number = kStartTag});
  start.begin_stages();
  start.wait();
}

/// The machine of every rank: those that can share memory are on one.
std::vector<int> find_machines(MPI_Comm world) {
  int rank = 0, size = 1;
  MPI_Comm_rank(world, &rank);
  MPI_Comm_size(world, &size);
  MPI_Comm machine = MPI_COMM_NULL;
  check(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine), "MPI_Comm_split_type");
  int first = rank;
  check(MPI_Bcast(&first, 1, MPI_INT, 0, machine), "MPI_Bcast");
  std::vector<int> firsts(size_t(size), 0);
  check(MPI_Allgather(&first, 1, MPI_INT, firsts.data(), 1, MPI_INT, world), "MPI_Allgather");
  MPI_Comm_free(&machine);
  std::map<int, int> numbers;
  for (int& of_rank : firsts) of_rank = numbers.emplace(of_rank, int(numbers.size())).first->second;
  return firsts;
}

std::unique_ptr<Comm> make_mpi_world(WorldOptions options) {
  auto runtime = std::make_shared<MpiRuntime>(std::move(options));
  meet(runtime);
  MPI_Comm world = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  runtime->machines = find_machines(world);
  return std::make_unique<MpiComm>(std::make_shared<MpiAxis>(std::move(runtime), world, "world"));
}

}  // namespace

std::unique_ptr<Comm> make_world_comm(WorldOptions options) {
  std::unique_ptr<Comm> comm =
      started_by_a_launcher() ? make_mpi_world(std::move(options)) : make_self_comm();
  // Under srun without PMIx every task would train alone and overwrite the others' files.
  const char* tasks = std::getenv("SLURM_NTASKS");
  const char* step = std::getenv("SLURM_STEP_ID");
  if (comm->size() == 1 && tasks && step && std::atoi(tasks) > 1) {
    fail_user("Slurm started {} tasks but MPI sees one rank; start with 'srun --mpi=pmix' or with mpirun.",
              tasks);
  }
  return comm;
}

}  // namespace spanwise
