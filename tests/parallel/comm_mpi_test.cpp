// Run under mpirun with several rank counts; every rank runs every test. Every rank can compute every rank's
// operands, so each collective is compared with plain loops over them.

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "parallel/comm.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kSizes[] = {1, 5, 64, 1003};
constexpr DType kReducible[] = {DType::kF32, DType::kF64, DType::kI64};

// Limits so small that most of the tensors here go in several pieces, the last one shorter.
Comm& world() {
  static const std::unique_ptr<Comm> comm =
      make_world_comm({.max_message_bytes = 300, .reduction_scratch_bytes = 1000});
  return *comm;
}

template <class F>
void dispatch_reducible(DType dtype, F&& fn) {
  if (dtype == DType::kI64) return fn(int64_t{});
  dispatch_float(dtype, fn);
}

/// What `rank` contributes: of mixed magnitudes, so that the order of a sum shows in its bits.
Tensor operand_of(int rank, int64_t numel, DType dtype) {
  const Tensor values = random_tensor({numel}, DType::kF64, fmt::format("rank {}", rank), 1e6);
  if (dtype != DType::kI64) return cast(values, dtype);
  Tensor result = Tensor::empty(test_context(), {numel}, dtype);
  for (int64_t i = 0; i < numel; ++i) result.data<int64_t>()[i] = int64_t(values.data<double>()[i]);
  return result;
}

/// The reduction of all ranks' operands, in rank order.
Tensor reduced(const Comm& comm, int64_t numel, DType dtype, Reduce op) {
  const Tensor result = operand_of(0, numel, dtype);
  dispatch_reducible(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int rank = 1; rank < comm.size(); ++rank) {
      const Tensor x = operand_of(rank, numel, dtype);
      for (int64_t i = 0; i < numel; ++i) {
        T& value = result.data<T>()[i];
        const T other = x.data<T>()[i];
        value = op == Reduce::kSum ? value + other : std::max(value, other);
      }
    }
  });
  return result;
}

Tensor empty(int64_t numel, DType dtype = DType::kF32) {
  return Tensor::empty(test_context(), {numel}, dtype);
}

Tensor slice(const Tensor& tensor, int index, int64_t numel) {
  return tensor.slice_flat(index * numel, {numel});
}

Traffic traffic_of(const Comm& comm, const std::string& name) {
  const auto found = comm.traffic().find(name);
  return found == comm.traffic().end() ? Traffic{} : found->second;
}

std::string error_of(const std::function<void()>& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Comm, SeesAsManyRanksAsWereStarted) {
  EXPECT_EQ(world().size(), std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE")));
  EXPECT_EQ(world().rank(), std::atoi(std::getenv("OMPI_COMM_WORLD_RANK")));
  EXPECT_EQ(world().axis(), "world");
}

TEST(Comm, AllReduceAddsInRankOrderAndTakesTheMaximum) {
  for (const DType dtype : kReducible) {
    for (const int64_t numel : kSizes) {
      for (const Reduce op : {Reduce::kSum, Reduce::kMax}) {
        const Tensor t = operand_of(world().rank(), numel, dtype);
        world().all_reduce("t", t, op).wait();
        EXPECT_TRUE(bitwise_equal(t, reduced(world(), numel, dtype, op))) << name_of(dtype) << " " << numel;
      }
    }
  }
}

TEST(Comm, AllReduceOfHostValuesAndOfNothing) {
  const double mine = world().rank() + 1;
  std::vector<double> values{mine, -mine};
  world().all_reduce("values", values, Reduce::kMax);
  EXPECT_EQ(values, (std::vector<double>{double(world().size()), -1.0}));
  world().all_reduce("values", values);
  EXPECT_EQ(values[0], world().size() * world().size());
  std::vector<double> none;
  world().all_reduce("none", none);
  EXPECT_TRUE(none.empty());
}

TEST(Comm, AMaximumWithNanIsNanWhicheverRankHasIt) {
  for (int holder = 0; holder < world().size(); ++holder) {
    std::vector<double> value{world().rank() == holder ? std::numeric_limits<double>::quiet_NaN() : 1.0};
    world().all_reduce("nan", value, Reduce::kMax);
    EXPECT_NE(value[0], value[0]);
  }
}

TEST(Comm, AllGatherLaysTheRanksOutInOrder) {
  for (const int64_t numel : kSizes) {
    const Tensor all = empty(numel * world().size());
    world().all_gather("t", operand_of(world().rank(), numel, DType::kF32), all).wait();
    for (int rank = 0; rank < world().size(); ++rank) {
      EXPECT_TRUE(bitwise_equal(slice(all, rank, numel), operand_of(rank, numel, DType::kF32)));
    }
  }
}

TEST(Comm, AllGatherWorksInPlaceAndOnAnyDtype) {
  const Tensor all = empty(3 * world().size(), DType::kU8);
  const Tensor mine = slice(all, world().rank(), 3);
  for (int i = 0; i < 3; ++i) mine.data<uint8_t>()[i] = uint8_t(10 * world().rank() + i);
  world().all_gather("bytes", mine, all).wait();
  for (int i = 0; i < all.numel(); ++i) EXPECT_EQ(all.data<uint8_t>()[i], 10 * (i / 3) + i % 3);
}

TEST(Comm, ReduceScatterGivesTheBitsOfAllReduce) {
  const int ranks = world().size();
  for (const DType dtype : kReducible) {
    for (const int64_t numel : kSizes) {
      const Tensor all = operand_of(world().rank(), numel * ranks, dtype);
      const Tensor expected = reduced(world(), numel * ranks, dtype, Reduce::kSum);
      const Tensor mine = empty(numel, dtype);
      world().reduce_scatter("t", all, mine).wait();
      EXPECT_TRUE(bitwise_equal(mine, slice(expected, world().rank(), numel)));

      const Tensor in_place = operand_of(world().rank(), numel * ranks, dtype);
      world().reduce_scatter("t", in_place, slice(in_place, world().rank(), numel)).wait();
      EXPECT_TRUE(bitwise_equal(slice(in_place, world().rank(), numel), mine));
    }
  }
}

TEST(Comm, AllToAllTransposesSlices) {
  const int ranks = world().size();
  for (const int64_t numel : kSizes) {
    const Tensor received = empty(numel * ranks);
    world().all_to_all("t", operand_of(world().rank(), numel * ranks, DType::kF32), received).wait();
    for (int rank = 0; rank < ranks; ++rank) {
      const Tensor theirs = operand_of(rank, numel * ranks, DType::kF32);
      EXPECT_TRUE(bitwise_equal(slice(received, rank, numel), slice(theirs, world().rank(), numel)));
    }
  }
}

// Messages of rank a to rank b: (a + b) % 3 of them, of different sizes; to oneself too.
TEST(Comm, ExchangeMatchesMessagesPerPairInOrder) {
  const int me = world().rank(), ranks = world().size();
  const auto numel = [](int from, int to, int i) { return 1 + 100 * i + 10 * from + to; };
  const auto message = [&](int from, int to, int i) {
    return random_tensor({numel(from, to, i)}, DType::kF64, fmt::format("{} to {}: {}", from, to, i));
  };
  std::vector<Message> sends, receives;
  int64_t received_bytes = 0;
  for (int peer = 0; peer < ranks; ++peer) {
    for (int i = 0; i < (peer + me) % 3; ++i) {
      sends.push_back({peer, message(me, peer, i)});
      receives.push_back({peer, empty(numel(peer, me, i), DType::kF64)});
      if (peer != me) received_bytes += int64_t(receives.back().tensor.bytes());
    }
  }
  // The order among different peers does not matter.
  std::stable_sort(receives.begin(), receives.end(), [](auto& a, auto& b) { return a.peer > b.peer; });
  world().reset_traffic();
  world().exchange("halo", sends, receives).wait();
  std::vector<int> seen(size_t(ranks), 0);
  for (const Message& received : receives) {
    EXPECT_TRUE(bitwise_equal(received.tensor, message(received.peer, me, seen[size_t(received.peer)]++)));
  }
  EXPECT_EQ(traffic_of(world(), "halo").received_bytes, received_bytes);
}

TEST(Comm, BroadcastComesFromTheRoot) {
  for (int root = 0; root < world().size(); ++root) {
    for (const int64_t numel : kSizes) {
      const Tensor t = operand_of(world().rank(), numel, DType::kF32);
      world().broadcast("t", t, root).wait();
      EXPECT_TRUE(bitwise_equal(t, operand_of(root, numel, DType::kF32)));
    }
  }
}

TEST(Comm, BroadcastReplacesTextOfAnyLength) {
  std::string text = world().rank() == 0 ? std::string(5000, 'x') + '\0' + "end" : "something else";
  world().broadcast("text", text);
  EXPECT_EQ(text, std::string(5000, 'x') + '\0' + "end");
  const auto text_of = [](int rank) { return std::string(size_t(rank * 700), char('a' + rank)) + '\0'; };
  std::vector<std::string> expected, all = world().all_gather("texts", text_of(world().rank()));
  for (int rank = 0; rank < world().size(); ++rank) expected.push_back(text_of(rank));
  EXPECT_EQ(all, expected);
  EXPECT_EQ(world().all_gather("texts", ""), std::vector<std::string>(size_t(world().size())));
  std::string nothing = world().rank() == 0 ? "" : "something else";
  world().broadcast("nothing", nothing);
  EXPECT_EQ(nothing, "");
}

TEST(Comm, CountsBytesByTheFormulasUnderEachName) {
  const int64_t ranks = world().size(), n = 1003, elem = 8;
  Comm& comm = world();
  comm.reset_traffic();
  const Tensor one = empty(n, DType::kF64), all = empty(n * ranks, DType::kF64);
  const Tensor other = empty(n * ranks, DType::kF64);
  one.fill(1);
  all.fill(1);
  comm.all_reduce("all_reduce", one).wait();
  comm.all_gather("all_gather", one, all).wait();
  comm.reduce_scatter("reduce_scatter", all, one).wait();
  comm.all_to_all("all_to_all", all, other).wait();
  comm.broadcast("broadcast", one, comm.size() - 1).wait();
  std::string text(70, 'a');
  comm.broadcast("text", text);
  std::vector<double> values(5, 0.0);
  for (int i = 0; i < 3; ++i) comm.all_reduce("values", values);
  comm.barrier("fence");

  EXPECT_EQ(traffic_of(comm, "all_reduce").received_bytes, 2 * (ranks - 1) * n * elem / ranks);
  EXPECT_EQ(traffic_of(comm, "all_gather").received_bytes, (ranks - 1) * n * elem);
  EXPECT_EQ(traffic_of(comm, "reduce_scatter").received_bytes, (ranks - 1) * n * elem);
  EXPECT_EQ(traffic_of(comm, "all_to_all").received_bytes, (ranks - 1) * n * elem);
  EXPECT_EQ(traffic_of(comm, "broadcast").received_bytes, comm.rank() == ranks - 1 ? 0 : n * elem);
  EXPECT_EQ(traffic_of(comm, "text").received_bytes, comm.rank() == 0 ? 0 : 78);
  EXPECT_EQ(traffic_of(comm, "values").received_bytes, 3 * (2 * (ranks - 1) * 40 / ranks));
  EXPECT_EQ(traffic_of(comm, "values").calls, 3);
  EXPECT_EQ(traffic_of(comm, "fence").calls, 1);
  EXPECT_EQ(comm.traffic().size(), 8);
  comm.reset_traffic();
  EXPECT_TRUE(comm.traffic().empty());
}

// Rank 0 joins in the order of starting, the others backwards; later stages must not wait for the order.
TEST(Comm, TicketsMayBeJoinedInDifferentOrders) {
  constexpr int kNum = 6;
  std::vector<Tensor> sums, gathered;
  std::vector<Ticket> tickets;
  for (int i = 0; i < kNum; ++i) {
    sums.push_back(operand_of(world().rank(), 500 + i, DType::kF64));
    gathered.push_back(empty((20 + i) * world().size()));
    tickets.push_back(world().all_reduce("sums", sums.back()));
    tickets.push_back(
        world().all_gather("gathered", operand_of(world().rank(), 20 + i, DType::kF32), gathered.back()));
  }
  if (world().rank() > 0) std::reverse(tickets.begin(), tickets.end());
  for (Ticket& ticket : tickets) ticket.wait();
  for (int i = 0; i < kNum; ++i) {
    EXPECT_TRUE(bitwise_equal(sums[size_t(i)], reduced(world(), 500 + i, DType::kF64, Reduce::kSum)));
    for (int rank = 0; rank < world().size(); ++rank) {
      EXPECT_TRUE(
          bitwise_equal(slice(gathered[size_t(i)], rank, 20 + i), operand_of(rank, 20 + i, DType::kF32)));
    }
  }
}

TEST(Comm, ATicketHoldsItsTensors) {
  const int64_t numel = 1003;
  const Tensor all = empty(numel * world().size());
  Ticket ticket = world().all_gather("t", operand_of(world().rank(), numel, DType::kF32), all);
  const Tensor other = empty(numel);  // the operand's memory, had it been given back
  other.fill(-1);
  ticket.wait();
  EXPECT_TRUE(bitwise_equal(slice(all, 0, numel), operand_of(0, numel, DType::kF32)));
}

TEST(Comm, SplitRanksAreOrderedAndTalkAmongThemselvesOnly) {
  const int colour = world().rank() % 2;
  const std::unique_ptr<Comm> part = world().split(colour, "parity");
  EXPECT_EQ(part->axis(), "parity");
  EXPECT_EQ(part->rank(), world().rank() / 2);
  EXPECT_EQ(part->size(), (world().size() + 1 - colour) / 2);
  const Tensor all = empty(part->size(), DType::kF64), mine = empty(1, DType::kF64);
  mine.fill(world().rank());
  // World and part are in flight at once.
  const Tensor sum = operand_of(world().rank(), 100, DType::kF64);
  Ticket outer = world().all_reduce("outer", sum);
  part->all_gather("inner", mine, all).wait();
  outer.wait();
  for (int i = 0; i < part->size(); ++i) EXPECT_EQ(all.data<double>()[i], 2 * i + colour);
  EXPECT_TRUE(bitwise_equal(sum, reduced(world(), 100, DType::kF64, Reduce::kSum)));
  EXPECT_EQ(traffic_of(*part, "inner").received_bytes, (part->size() - 1) * 8);
  EXPECT_EQ(traffic_of(world(), "inner").calls, 0);
}

TEST(Comm, MisuseIsRefusedBeforeAnythingIsSent) {
  const Tensor matrix = Tensor::zeros(test_context(), {4, 6}, DType::kF32);
  const Tensor vector = Tensor::zeros(test_context(), {5}, DType::kF32);
  const int ranks = world().size();
  EXPECT_NE(error_of([&] { world().all_reduce("x", matrix.column_range(1, 3)); }).find("not contiguous"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              world().all_reduce("x", Tensor::zeros(test_context(), {1}, DType::kU8));
            }).find("U8 cannot be reduced"),
            std::string::npos);
  EXPECT_NE(error_of([&] { world().all_gather("x", vector, empty(5 * ranks + 1)); }).find("elements a rank"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              world().exchange("x", {{ranks, vector}}, {});
            }).find("sends to rank"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              world().exchange("x", {{world().rank(), vector}}, {});
            }).find("to oneself"),
            std::string::npos);
  EXPECT_EQ(error_of([&] { world().barrier(); }), "no error");
}

}  // namespace
}  // namespace spanwise::testing
