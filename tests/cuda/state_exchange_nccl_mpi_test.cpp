// Run under mpirun on a machine with a GPU for every rank: summaries, states, gradients and halos travel and
// are folded on GPUs as they are on hosts.

#include "parallel/halo.h"
#include "parallel/state_exchange.h"
#include "tests/parallel/sequence_testing.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kKeyDim = 64, kValueDim = 48;
constexpr TransitionKind kKinds[] = {TransitionKind::kIdentity, TransitionKind::kScalar,
                                     TransitionKind::kDiagonal, TransitionKind::kDense};

int64_t num_heads() {
  return 2 * world().size();
}

void use_gpu() {
  static const bool done = [] {
    world().set_timeout(30);
    world().use_gpu(cuda_context());
    world().connect_gpus();
    return true;
  }();
  ASSERT_TRUE(done);
}

/// What ranks hold: different values on each.
Tensor part(const Shape& shape, const char* name, double scale, double shift = 0) {
  return random_tensor(shape, DType::kF64, fmt::format("{} {}", name, world().rank()), scale, shift);
}

/// The summary of this rank's rows, fp32 on a GPU or fp64 on the host.
SpanSummary summary_of(TransitionKind kind, int64_t rows, bool gpu) {
  const auto place = [&](const Tensor& t) {
    return gpu ? to_cuda(t, DType::kF32) : to_cpu64(to_cuda(t, DType::kF32));
  };
  SpanSummary summary{.transition = {.kind = kind},
                      .state = place(part({rows, num_heads(), kKeyDim, kValueDim}, "B", 1))};
  if (kind == TransitionKind::kIdentity) return summary;
  summary.transition.values = place(part(transition_shape(kind, {rows, num_heads()}, kKeyDim), "M", 0.1,
                                         kind == TransitionKind::kDense ? 0 : -0.3));
  return summary;
}

TEST(StateExchangeNccl, EveryAlgorithmFoldsAsOnTheHost) {
  use_gpu();
  std::vector<SequenceParallelOptions> algorithms;
  for (const StateExchange exchange : {StateExchange::kAuto, StateExchange::kAllGather, StateExchange::kChain,
                                       StateExchange::kHeadSplit, StateExchange::kTwoLevel}) {
    algorithms.push_back({.exchange = exchange, .ranks_per_node = world().size()});
  }
  algorithms.push_back({.exchange = StateExchange::kTwoLevel, .ranks_per_node = 1});
  for (const Rows& rows : row_cases()) {
    for (const Partition partition : partitions()) {
      const SequencePlan plan = plan_of(rows, partition);
      for (const SequenceParallelOptions& options : algorithms) {
        const SequenceParallel gpu(cuda_context(), world(), plan, options);
        const SequenceParallel host(test_context(), world(), plan, options);
        for (const TransitionKind kind : kKinds) {
          SCOPED_TRACE(fmt::format("{} exchange {} kind {}", rows.name, int(options.exchange), int(kind)));
          const SpanSummary given = summary_of(kind, plan.num_local_rows(), true),
                            exact = summary_of(kind, plan.num_local_rows(), false);
          const IncomingState actual = gpu.spans().start_forward(given)->wait(),
                              expected = host.spans().start_forward(exact)->wait();
          EXPECT_LE(rms_ratio(actual.state, expected.state), 1e-6);
          EXPECT_LE(rms_ratio(gpu.spans().start_backward(given.state, actual.saved)->wait(),
                              host.spans().start_backward(exact.state, expected.saved)->wait()),
                    1e-6);
        }
      }
    }
  }
}

TEST(HaloNccl, FetchesAndGivesBackAsOnTheHost) {
  use_gpu();
  for (const Rows& rows : row_cases()) {
    for (const Partition partition : partitions()) {
      for (const int64_t width : {1, 3, 40}) {
        SCOPED_TRACE(fmt::format("{} width {}", rows.name, width));
        const SequencePlan plan = plan_of(rows, partition);
        const Halo halo(plan, width);
        const int64_t capacity = plan.partition().capacity(), channels = 24;
        const Tensor x = to_cuda(part({plan.num_local_rows(), capacity, channels}, "x", 1), DType::kBF16);
        const Tensor exact = to_cpu64(x);
        // A column block, as projections give them.
        const Tensor block = x.column_range(8, 24), exact_block = exact.column_range(8, 24);
        EXPECT_EQ(rms_ratio(halo.fetch(cuda_context(), world(), "halo", block),
                            halo.fetch(test_context(), world(), "halo", exact_block)),
                  0);
        const Tensor dhalo =
            to_cuda(part({plan.num_local_rows(), width, channels}, "dhalo", 1), DType::kBF16);
        const Tensor exact_dhalo = to_cpu64(dhalo);
        halo.give_back(cuda_context(), world(), "back", dhalo, x);
        halo.give_back(test_context(), world(), "back", exact_dhalo, exact);
        EXPECT_LE(rms_ratio(x, exact), 0.004);
      }
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
