// Run under mpirun with several rank counts: softmax attention over ranks equals attention on whole rows.

#include "core/ops/softmax_attention.h"
#include "tests/parallel/sequence_testing.h"
#include "tests/testing/user_error.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kDim = 5, kValueDim = 3;
constexpr double kScale = 0.7;

struct Heads {
  int64_t queries, keys;
};
/// More key heads than ranks, as many, fewer (replicated by Ulysses), and one.
std::vector<Heads> head_cases() {
  const int64_t W = world().size();
  std::vector<Heads> cases{{2 * W, 2 * W}, {2 * W, W}, {2 * W, 1}};
  if (W == 4) cases.push_back({8, 2});
  return cases;
}

std::vector<Tensor> operands_of(const Heads& heads, int64_t batch, int64_t length) {
  return {random_tensor({batch, length, heads.queries, kDim}, DType::kF64, "q"),
          random_tensor({batch, length, heads.keys, kDim}, DType::kF64, "k"),
          random_tensor({batch, length, heads.keys, kValueDim}, DType::kF64, "v")};
}

Op whole_attention(const SequenceLayout& layout, int64_t window) {
  return [&layout, window](Tape& tape, const std::vector<Var>& x) {
    return softmax_attention(tape, x[0], x[1], x[2], causal_key_ranges(layout, window), kScale);
  };
}
Op local_attention(const SequenceParallel& sequence, int64_t window) {
  return [&sequence, window](Tape& tape, const std::vector<Var>& x) {
    return sequence.attention(tape, x[0], x[1], x[2], window, kScale);
  };
}

struct Way {
  const char* name;
  AttentionExchange exchange;
};
constexpr Way kWays[] = {{"all-gather", AttentionExchange::kAllGather},
                         {"ring", AttentionExchange::kRing},
                         {"Ulysses", AttentionExchange::kUlysses}};

template <class F>
void for_each_case(F&& visit) {
  for (const Rows& rows : row_cases()) {
    for (const Partition partition : partitions()) {
      const SequencePlan plan = plan_of(rows, partition);
      for (const Way& way : kWays) {
        const SequenceParallel sequence(test_context(), world(), plan, {.attention = way.exchange});
        SCOPED_TRACE(fmt::format("{}, {}, {}", way.name, rows.name,
                                 partition == Partition::kZigzag ? "zigzag" : "contiguous"));
        visit(rows, plan, sequence);
      }
    }
  }
}

// Windows: none, the token alone, within a part, over several parts, longer than the row.
TEST(AttentionExchange, EveryWayEqualsTheWholeRows) {
  for_each_case([](const Rows& rows, const SequencePlan& plan, const SequenceParallel& sequence) {
    const SequenceLayout whole = rows.layout();
    for (const int64_t window : {0, 1, 3, 13, 100}) {
      for (const Heads& heads : head_cases()) {
        SCOPED_TRACE(fmt::format("window {}, {} query and {} key heads", window, heads.queries, heads.keys));
        expect_equals_whole(rows, plan, local_attention(sequence, window), whole_attention(whole, window),
                            operands_of(heads, rows.batch, rows.length));
      }
    }
  });
}

TEST(AttentionExchange, NothingLeaksIntoOtherDocumentsOrThePast) {
  for_each_case([](const Rows& rows, const SequencePlan& plan, const SequenceParallel& sequence) {
    for (const int64_t window : {0, 5})
      expect_no_leaks(rows, plan, local_attention(sequence, window),
                      operands_of(head_cases()[1], rows.batch, rows.length));
  });
}

TEST(AttentionExchange, ReadsColumnBlocks) {
  const Rows rows = row_cases()[1];
  const Heads heads = head_cases()[1];
  const SequencePlan plan = plan_of(rows, Partition::kZigzag);
  const int64_t q = heads.queries * kDim, k = heads.keys * kDim, v = heads.keys * kValueDim;
  const Tensor fused =
      take_local(plan, random_tensor({rows.batch, rows.length, q + k + v}, DType::kF64, "fused"), 0);
  const int64_t local = fused.dim(0), capacity = fused.dim(1);
  const Tensor blocks[] = {
      fused.column_range(0, q).reshape({local, capacity, heads.queries, kDim}),
      fused.column_range(q, q + k).reshape({local, capacity, heads.keys, kDim}),
      fused.column_range(q + k, q + k + v).reshape({local, capacity, heads.keys, kValueDim})};
  for (const Way& way : kWays) {
    const SequenceParallel sequence(test_context(), world(), plan, {.attention = way.exchange});
    for (const int64_t window : {0, 4}) {
      Tape tape(test_context(), Tape::Mode::kInference);
      const auto attend = [&](auto prepare) {
        return sequence
            .attention(tape, Var(prepare(blocks[0])), Var(prepare(blocks[1])), Var(prepare(blocks[2])),
                       window, kScale)
            .value();
      };
      EXPECT_TRUE(bitwise_equal(attend([](const Tensor& t) { return t; }),
                                attend([](const Tensor& t) { return t.to_contiguous(test_context()); })))
          << way.name;
    }
  }
}

struct Bytes {
  int64_t forward, backward;
};

// The table of parallel/attention_exchange.h, for one document a row and windows within a part.
Bytes expected_bytes(const SequencePlan& plan, AttentionExchange way, const Heads& heads, int64_t window) {
  const SequencePartition& p = plan.partition();
  const int64_t W = world().size(), tokens = plan.num_local_rows() * p.capacity();
  const int64_t key_values = heads.keys * (kDim + kValueDim);
  if (way == AttentionExchange::kUlysses) {
    const int64_t h = heads.queries / W, hkv = std::max<int64_t>(heads.keys / W, 1);
    const int64_t there = (W - 1) * tokens * (h * kDim + hkv * (kDim + kValueDim)) * 8;
    const int64_t back = (W - 1) * tokens * h * kValueDim * 8;
    return {there + back, there + back};
  }
  if (way == AttentionExchange::kRing)
    return {(W - 1) * tokens * key_values * 8, 2 * (W - 1) * tokens * key_values * 8};
  if (window == 0) return {(W - 1) * tokens * key_values * 8, (W - 1) * tokens * key_values * 8};
  Bytes bytes{};
  for (int part = 0; part + 1 < p.num_parts(); ++part) {
    if (p.owner(part) == p.owner(part + 1)) continue;
    const int64_t halo = plan.batch() * (window - 1) * key_values * 8;
    if (p.owner(part + 1) == plan.rank()) bytes.forward += halo;
    if (p.owner(part) == plan.rank()) bytes.backward += halo;
  }
  return bytes;
}

TEST(AttentionExchange, BytesFollowTheFormulas) {
  const int64_t batch = 2;
  for (const int64_t length : {48, 96}) {
    for (const Partition partition : partitions()) {
      const SequencePlan plan = plan_of({"", batch, length, {0, length}}, partition);
      for (const Way& way : kWays) {
        const SequenceParallel sequence(test_context(), world(), plan, {.attention = way.exchange});
        for (const Heads& heads : head_cases()) {
          for (const int64_t window : {0, 5}) {
            std::vector<Tensor> parts;
            for (const Tensor& t : operands_of(heads, batch, length)) parts.push_back(take_local(plan, t, 0));
            const Tensor dout = take_local(
                plan, random_tensor({batch, length, heads.queries, kValueDim}, DType::kF64, "dout"), 0);
            world().reset_traffic();
            run_op(local_attention(sequence, window), parts, dout);
            Bytes measured{};
            for (const auto& [name, traffic] : world().traffic())
              (name.starts_with("attention_forward") ? measured.forward : measured.backward) +=
                  traffic.received_bytes;
            const Bytes expected = expected_bytes(plan, way.exchange, heads, window);
            EXPECT_EQ(measured.forward, expected.forward) << way.name << " window " << window;
            EXPECT_EQ(measured.backward, expected.backward) << way.name << " window " << window;
          }
        }
      }
    }
  }
}

TEST(AttentionExchange, UlyssesRefusesHeadsThatDoNotFit) {
  if (world().size() == 1) return;
  const Rows rows = row_cases()[0];
  const SequencePlan plan = plan_of(rows, Partition::kContiguous);
  const SequenceParallel sequence(test_context(), world(), plan, {.attention = AttentionExchange::kUlysses});
  const int64_t W = world().size();
  for (const Heads& heads : {Heads{W + 1, W + 1}, Heads{W * (W + 1), W + 1}}) {
    Tape tape(test_context(), Tape::Mode::kInference);
    std::vector<Var> x;
    for (const Tensor& t : operands_of(heads, rows.batch, rows.length))
      x.push_back(Var(take_local(plan, t, 0)));
    const std::string error = user_error_of([&] { local_attention(sequence, 0)(tape, x); });
    EXPECT_NE(error.find("ULYSSES"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace spanwise::testing
