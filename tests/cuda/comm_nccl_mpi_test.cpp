// Run under mpirun on a machine with a GPU for every rank. Every rank can compute every rank's operands, so
// each collective is compared with plain loops over them, or with the same call on the host's memory.

#include <chrono>

#include "parallel/comm.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kSizes[] = {1, 5, 64, 1003, 300007};
constexpr DType kReducible[] = {DType::kF32, DType::kF64, DType::kI64, DType::kBF16};

Comm& world() {
  // By itself: MPI starts once in a process, also where a rank finds no GPU and the next test asks again.
  static const std::unique_ptr<Comm> comm = make_world_comm();
  static const bool ready = [] {
    comm->set_timeout(30);  // a rank that fails alone must not keep the others
    comm->use_gpu(cuda_context());
    comm->connect_gpus();
    return true;
  }();
  static_cast<void>(ready);
  return *comm;
}

Tensor on_gpu(const std::vector<double>& values, DType dtype) {
  const Shape shape{int64_t(values.size())};
  if (dtype == DType::kI64)
    return Tensor::from(cuda_context(), shape, std::vector<int64_t>(values.begin(), values.end()));
  return to_cuda(Tensor::from(test_context(), shape, values), dtype);
}

std::vector<double> on_host(const Tensor& t) {
  if (t.dtype() != DType::kI64) return to_doubles(to_cpu64(t));
  const std::vector<int64_t> values = t.to_vector<int64_t>();
  return {values.begin(), values.end()};
}

/// What `rank` contributes: integers, so that sums are exact in every order and dtype.
std::vector<double> operand_of(int rank, int64_t numel) {
  std::vector<double> values;
  for (int64_t i = 0; i < numel; ++i) values.push_back(double((i * 7 + rank * 13) % 23 - 11));
  return values;
}

Tensor mine(int64_t numel, DType dtype = DType::kF32) {
  return on_gpu(operand_of(world().rank(), numel), dtype);
}

Tensor empty(int64_t numel, DType dtype = DType::kF32) {
  return Tensor::empty(cuda_context(), {numel}, dtype);
}

std::vector<double> reduced(int64_t numel, Reduce op) {
  std::vector<double> result = operand_of(0, numel);
  for (int rank = 1; rank < world().size(); ++rank) {
    const std::vector<double> other = operand_of(rank, numel);
    for (size_t i = 0; i < result.size(); ++i)
      result[i] = op == Reduce::kSum ? result[i] + other[i] : std::max(result[i], other[i]);
  }
  return result;
}

std::vector<double> gathered(int64_t numel) {
  std::vector<double> all;
  for (int rank = 0; rank < world().size(); ++rank) {
    const std::vector<double> part = operand_of(rank, numel);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

/// Keeps the compute stream busy: about `ms` milliseconds of fills.
void keep_busy(double ms) {
  static const Tensor memory = Tensor::empty(cuda_context(), {int64_t{256} << 20}, DType::kF32);
  static const double one = median_ms([] { memory.fill(1); }, 5);
  for (double passed = 0; passed < ms; passed += one) memory.fill(1);
}

TEST(CommNccl, AllReduceAddsAndTakesTheMaximum) {
  for (const DType dtype : kReducible) {
    for (const int64_t numel : kSizes) {
      for (const Reduce op : {Reduce::kSum, Reduce::kMax}) {
        if (dtype == DType::kBF16 && op == Reduce::kMax) continue;
        const Tensor t = mine(numel, dtype);
        world().all_reduce("t", t, op).wait();
        EXPECT_EQ(on_host(t), reduced(numel, op)) << name_of(dtype) << " " << numel;
      }
    }
  }
}

TEST(CommNccl, EveryRankGetsTheSameBitsInEveryRun) {
  const int64_t numel = 100003;
  const Tensor values = random_tensor({numel}, DType::kF64, fmt::format("rank {}", world().rank()), 1e6);
  std::vector<float> first;
  for (int run = 0; run < 3; ++run) {
    const Tensor sum = to_cuda(values, DType::kF32), all = empty(numel * world().size());
    world().all_reduce("t", sum).wait();
    world().all_gather("t", sum, all).wait();
    const std::vector<float> bits = all.to_vector<float>();
    if (run == 0) first = bits;
    EXPECT_TRUE(bits == first) << "run " << run;
    for (int rank = 1; rank < world().size(); ++rank)
      EXPECT_TRUE(std::equal(bits.begin(), bits.begin() + numel, bits.begin() + rank * numel)) << rank;
  }
}

TEST(CommNccl, AllGatherLaysTheRanksOutInOrder) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI64}) {
    for (const int64_t numel : kSizes) {
      const Tensor all = empty(numel * world().size(), dtype), again = empty(numel * world().size(), dtype);
      world().all_gather("t", mine(numel, dtype), all).wait();
      EXPECT_EQ(on_host(all), gathered(numel)) << name_of(dtype) << " " << numel;
      const Tensor slice = again.slice_flat(world().rank() * numel, {numel});  // in place
      slice.copy_from(mine(numel, dtype));
      world().all_gather("t", slice, again).wait();
      EXPECT_EQ(on_host(again), gathered(numel));
    }
  }
}

TEST(CommNccl, ReduceScatterThenAllGatherIsAllReduce) {
  for (const DType dtype : kReducible) {
    for (const int64_t numel : kSizes) {
      const int64_t whole = numel * world().size();
      const Tensor part = empty(numel, dtype), all = empty(whole, dtype);
      world().reduce_scatter("t", mine(whole, dtype), part).wait();
      world().all_gather("t", part, all).wait();
      EXPECT_EQ(on_host(all), reduced(whole, Reduce::kSum)) << name_of(dtype) << " " << numel;
    }
  }
}

TEST(CommNccl, AllToAllTurnsTheMatrixOfSlices) {
  const int ranks = world().size(), me = world().rank();
  for (const int64_t numel : kSizes) {
    const Tensor received = empty(numel * ranks, DType::kBF16);
    world().all_to_all("t", mine(numel * ranks, DType::kBF16), received).wait();
    std::vector<double> expected;
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<double> sent = operand_of(rank, numel * ranks);
      expected.insert(expected.end(), sent.begin() + me * numel, sent.begin() + (me + 1) * numel);
    }
    EXPECT_EQ(on_host(received), expected) << numel;
  }
}

// Messages of rank a to rank b: 1 + (a + b) % 3 of them, of different sizes; to oneself too.
TEST(CommNccl, ExchangeMatchesMessagesPerPairInOrder) {
  const int me = world().rank(), ranks = world().size();
  const auto message = [](int from, int to, int i) {
    return operand_of(from * 50 + to * 5 + i, 1 + 100 * i + from);
  };
  std::vector<Message> sends, receives;
  for (int peer = 0; peer < ranks; ++peer) {
    for (int i = 0; i < 1 + (peer + me) % 3; ++i) {
      sends.push_back({peer, on_gpu(message(me, peer, i), DType::kF32)});
      receives.push_back({peer, empty(int64_t(message(peer, me, i).size()))});
    }
  }
  world().exchange("halo", sends, receives).wait();
  std::vector<int> seen(size_t(ranks), 0);
  for (const Message& received : receives)
    EXPECT_EQ(on_host(received.tensor), message(received.peer, me, seen[size_t(received.peer)]++));
  // Some ranks have nothing to say.
  const Tensor t = mine(10);
  if (me == 0) world().exchange("one way", {{1, t}}, {}).wait();
  if (me == 1) world().exchange("one way", {}, {{0, t}}).wait();
  if (me > 1) world().exchange("one way", {}, {}).wait();
  if (me == 1) {
    EXPECT_EQ(on_host(t), operand_of(0, 10));
  }
}

TEST(CommNccl, BroadcastComesFromTheRoot) {
  for (int root = 0; root < world().size(); ++root) {
    const Tensor t = mine(1003);
    world().broadcast("t", t, root).wait();
    EXPECT_EQ(on_host(t), operand_of(root, 1003));
  }
}

TEST(CommNccl, CountsTheBytesThatTheHostWouldCount) {
  const auto traffic_on = [](Context& ctx) {
    Comm& comm = world();
    const int ranks = comm.size(), next = (comm.rank() + 1) % ranks, last = (comm.rank() + ranks - 1) % ranks;
    const auto make = [&](int64_t numel) { return Tensor::zeros(ctx, {numel}, DType::kF32); };
    comm.reset_traffic();
    comm.all_reduce("all_reduce", make(1003)).wait();
    comm.all_gather("all_gather", make(1003), make(1003 * ranks)).wait();
    comm.reduce_scatter("reduce_scatter", make(1003 * ranks), make(1003)).wait();
    comm.all_to_all("all_to_all", make(1003 * ranks), make(1003 * ranks)).wait();
    comm.broadcast("broadcast", make(1003), ranks - 1).wait();
    comm.exchange("exchange", {{next, make(17)}}, {{last, make(17)}}).wait();
    std::string text;
    for (const auto& [name, t] : comm.traffic())
      text += fmt::format("{} {} {}\n", name, t.calls, t.received_bytes);
    return text;
  };
  EXPECT_EQ(traffic_on(cuda_context()), traffic_on(test_context()));
}

// Other work takes the memory of dropped operands, on a GPU that is behind the host.
TEST(CommNccl, ATicketHoldsItsTensorsUntilTheJoin) {
  const int64_t numel = 1 << 20;
  for (int i = 0; i < 20; ++i) {
    const Tensor all = empty(numel * world().size());
    keep_busy(2);
    Ticket ticket = world().all_gather("t", mine(numel), all);
    for (int j = 0; j < 3; ++j) empty(numel).fill(-1);
    ticket.wait();
    for (int j = 0; j < 3; ++j) empty(numel).fill(-2);
    EXPECT_EQ(on_host(all), gathered(numel)) << i;
  }
}

// The first call on its axis: a rank without messages, the third and on, does not know that the others' lie
// on GPUs.
TEST(CommNccl, ARankWithoutMessagesDoesNotKeepTheOthersWaiting) {
  const std::unique_ptr<Comm> axis = world().split(0, "first used by some");
  axis->connect_gpus();
  const int me = axis->rank(), last = axis->size() - 1;
  const Tensor sent = mine(1000), received = empty(1000);
  std::vector<Message> sends, receives;
  if (me == 0 && last > 1) sends.push_back({1, sent});
  if (me == 1 && last > 1) receives.push_back({0, received});
  axis->exchange("to a neighbour", sends, receives).wait();
  if (!receives.empty()) {
    EXPECT_EQ(on_host(received), operand_of(0, 1000));
  }
  const Tensor sum = mine(1000);
  axis->all_reduce("all", sum).wait();
  EXPECT_EQ(on_host(sum), reduced(1000, Reduce::kSum));
}

TEST(CommNccl, TicketsOfTwoAxesMayBeJoinedInAnyOrder) {
  const std::unique_ptr<Comm> other = world().split(0, "other");
  other->connect_gpus();
  std::vector<Tensor> sums, all;
  std::vector<Ticket> tickets;
  for (int i = 0; i < 6; ++i) {
    sums.push_back(mine(50000 + i));
    all.push_back(empty((2000 + i) * world().size()));
    tickets.push_back(world().all_reduce("sums", sums.back()));
    tickets.push_back(other->all_gather("gathered", mine(2000 + i), all.back()));
  }
  if (world().rank() > 0) std::reverse(tickets.begin(), tickets.end());
  for (Ticket& ticket : tickets) ticket.wait();
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(on_host(sums[size_t(i)]), reduced(50000 + i, Reduce::kSum));
    EXPECT_EQ(on_host(all[size_t(i)]), gathered(2000 + i));
  }
}

TEST(CommNccl, TheHostWaitsForNothing) {
  using Clock = std::chrono::steady_clock;
  const Tensor t = mine(1 << 20);
  world().all_reduce("t", t).wait();  // ranks connect here
  keep_busy(1);
  cuda_context().synchronize();
  world().barrier();
  keep_busy(200);
  const auto begin = Clock::now();
  for (int i = 0; i < 10; ++i) world().all_reduce("t", t).wait();
  const std::chrono::duration<double, std::milli> host = Clock::now() - begin;
  EXPECT_LT(host.count(), 100) << "ten collectives behind 200 ms of work";
}

TEST(CommNccl, SteadyStateTakesNothingFromTheGpu) {
  const auto step = [] {
    const Tensor all = empty(100003 * world().size()), part = empty(100003);
    world().all_gather("t", mine(100003), all).wait();
    world().reduce_scatter("t", all, part).wait();
  };
  step();
  cuda_context().synchronize();
  const MemoryStats before = cuda_context().memory();
  for (int i = 0; i < 10; ++i) step();
  EXPECT_EQ(cuda_context().memory().reserved_bytes, before.reserved_bytes);
  EXPECT_EQ(cuda_context().memory().live_bytes, before.live_bytes);
}

TEST(CommNccl, TheTimelineTellsExposedFromHiddenTime) {
  // Large, so that the host's way from starting to joining is short beside the transfer, even over NVLink.
  const Tensor t = mine(32 << 20);
  world().all_reduce("t", t).wait();
  keep_busy(1);
  cuda_context().synchronize();
  world().barrier();
  // Long work beside a short transfer, whatever joins the GPUs.
  const double work_ms = 5 + 3 * median_ms([&] { world().all_reduce("t", t).wait(); }, 5);
  world().start_timeline();
  for (int i = 0; i < 5; ++i) {
    world().all_reduce("joined at once", t).wait();
    Ticket ticket = world().all_reduce("joined after work", t);
    keep_busy(work_ms);
    ticket.wait();
  }
  const CommTimeline timeline = world().take_timeline();
  ASSERT_EQ(timeline.spans.size(), 10);
  double exposed[2] = {}, all[2] = {};
  for (const CommSpan& span : timeline.spans) {
    const int kind = span.name == "joined at once" ? 0 : 1;
    exposed[kind] += span.exposed_ms();
    all[kind] += span.duration_ms();
    EXPECT_GT(span.duration_ms(), 0);
    EXPECT_EQ(span.axis, "world");
    EXPECT_EQ(span.operation, "all_reduce");
  }
  EXPECT_GT(exposed[0], 0.8 * all[0]);
  EXPECT_LT(exposed[1], 0.4 * all[1]);
  EXPECT_GT(timeline.total_ms, 25);
  if (world().rank() == 0) fmt::print("{}", timeline.table());
  world().all_reduce("not recorded", t).wait();
  world().start_timeline();
  EXPECT_TRUE(world().take_timeline().spans.empty());
}

TEST(CommNccl, MisuseIsRefused) {
  const auto error_of = [](auto&& function) -> std::string {
    try {
      function();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const Tensor gpu = mine(8, DType::kBF16), cpu = Tensor::zeros(test_context(), {8}, DType::kBF16);
  EXPECT_NE(error_of([&] { world().all_reduce("x", gpu, Reduce::kMax); }).find("BF16 cannot be reduced"),
            std::string::npos);
  EXPECT_NE(error_of([&] { world().all_reduce("x", cpu); }).find("BF16 cannot be reduced"),
            std::string::npos);
  EXPECT_NE(error_of([&] { world().all_to_all("x", gpu, cpu); }).find("operands on CUDA and on CPU"),
            std::string::npos);
  EXPECT_NE(error_of([&] { world().use_gpu(cuda_context()); }).find("uses a GPU already"), std::string::npos);
  const std::unique_ptr<Comm> unconnected = world().split(0, "unconnected");
  if (unconnected->size() == 1) return;
  EXPECT_NE(error_of([&] { unconnected->all_reduce("x", gpu); }).find("connect_gpus has not been called"),
            std::string::npos);
}

}  // namespace
}  // namespace spanwise::testing
