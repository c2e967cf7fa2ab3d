// Run under mpirun with several rank counts: every mixer on the parts of a sequence equals itself on whole
// rows, gradients of its parameters (summed over ranks) included.

#include "models/layer_options.h"

#include <set>

#include "tests/parallel/sequence_testing.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kHidden = 12;

const SharedOptions kShared{.hidden = kHidden, .norm_eps = 1e-6, .linear = {.init_stddev = 0.02}};

MixerSizes small_sizes(int64_t window = 0) {
  return {.attention = {.num_heads = 4, .num_kv_heads = 2, .head_dim = 4, .window = window, .qk_norm = true},
          .heads = {.num_heads = 2, .num_value_heads = 4, .key_dim = 4, .value_dim = 6}};
}

/// Every mixer, and attention with a window.
std::vector<MixerOptions> mixer_cases() {
  std::vector<MixerOptions> cases = every_mixer(small_sizes());
  cases.push_back(mixer_named("attention", small_sizes(3)));
  return cases;
}

struct MixerRun {
  Tensor out, dx;
  std::vector<std::string> names;
  std::vector<Tensor> grads;
};

/// With parameters of its own, the same in every run.
MixerRun run_mixer(const MixerOptions& options, const LayerContext& context, const Tensor& x,
                   const Tensor& dout) {
  const std::unique_ptr<Mixer> mixer = make_mixer(options, kShared, {.layer = 0, .num_layers = 2});
  std::vector<Var> params;
  MixerRun run;
  mixer->visit("", [&](const std::string& name, Param& param) {
    param.var = Var(random_tensor(param.shape, DType::kF64, name, 0.4), true);
    params.push_back(param.var);
    run.names.push_back(name);
  });
  Tape tape(test_context());
  const Var input(x, true);
  const Var out = mixer->forward(tape, input, context);
  run.out = out.value();
  tape.backward({out}, {dout});
  run.dx = input.grad();
  for (const Var& param : params) run.grads.push_back(param.grad_or_zeros(test_context()));
  return run;
}

TEST(MixersOverSequenceRanks, EqualTheWholeRows) {
  for (const Rows& rows : row_cases()) {
    const SequenceLayout whole = rows.layout();
    const Tensor x = random_tensor({rows.batch, rows.length, kHidden}, DType::kF64, "x");
    const Tensor dout = random_tensor(x.shape(), DType::kF64, "dout");
    for (const MixerOptions& mixer : mixer_cases()) {
      const MixerRun expected = run_mixer(mixer, {.layout = whole}, x, dout);
      const double rounding =
          rounding_of(DType::kF64, std::max(size_of(expected.grads), size_of({expected.dx})));
      for (const Partition partition : partitions()) {
        SCOPED_TRACE(fmt::format("{}, {}, {}", name_of(mixer), rows.name, int(partition)));
        const SequencePlan plan = plan_of(rows, partition);
        const SequenceParallel sequence(test_context(), world(), plan, {});
        const MixerRun actual = run_mixer(mixer, {.layout = plan.local(), .sequence = &sequence},
                                          take_local(plan, x, 0.5), take_local(plan, dout, 0));
        EXPECT_TRUE(near(without_padding(plan, actual.out, rows), take_local(plan, expected.out, 0),
                         kLayoutTolerance));
        EXPECT_TRUE(near(actual.dx, take_local(plan, expected.dx, 0), kLayoutTolerance, rounding));
        for (size_t i = 0; i < actual.grads.size(); ++i) {
          world().all_reduce("gradients", actual.grads[i]).wait();
          EXPECT_TRUE(near(actual.grads[i], expected.grads[i], kLayoutTolerance, rounding))
              << actual.names[i];
        }
      }
    }
  }
}

using ReceivedBytes = std::map<std::string, int64_t>;  // by the collective's name

/// Of one forward and backward on a row of `length` tokens, one document.
ReceivedBytes received_bytes(const MixerOptions& mixer, Partition partition,
                             const SequenceParallelOptions& options, int64_t length) {
  const SequencePlan plan = plan_of({"", 1, length, {0}}, partition);
  const SequenceParallel sequence(test_context(), world(), plan, options);
  const Tensor x = take_local(plan, random_tensor({1, length, kHidden}, DType::kF64, "x"), 0);
  world().reset_traffic();
  run_mixer(mixer, {.layout = plan.local(), .sequence = &sequence}, x, x);
  ReceivedBytes received;
  for (const auto& [name, traffic] : world().traffic()) received[name] = traffic.received_bytes;
  return received;
}

TEST(MixersOverSequenceRanks, LinearOnesReceiveTheSameBytesAtAnyLength) {
  const int ranks = world().size();
  for (const MixerOptions& mixer : every_mixer(small_sizes())) {
    if (is_attention(mixer)) continue;
    for (const Partition partition : partitions()) {
      for (const SequenceParallelOptions& options :
           {SequenceParallelOptions{.exchange = StateExchange::kAllGather},
            SequenceParallelOptions{.exchange = StateExchange::kChain},
            SequenceParallelOptions{.exchange = StateExchange::kHeadSplit},
            SequenceParallelOptions{.exchange = StateExchange::kTwoLevel,
            .ranks_per_node = ranks > 1 ? ranks / 2 : 1}}) {
        SCOPED_TRACE(
            fmt::format("{}, {}, exchange {}", name_of(mixer), int(partition), int(options.exchange)));
        const ReceivedBytes received = received_bytes(mixer, partition, options, 64);
        EXPECT_EQ(received, received_bytes(mixer, partition, options, 2048));
        const std::set<std::string_view> convolving{"mamba2", "delta_net", "gated_delta_net"};
        EXPECT_EQ(received.contains("halo_forward"), convolving.contains(name_of(mixer)));
        // A single rank passes the states of a chain on to itself.
        EXPECT_EQ(received.contains("state_forward") && received.contains("state_backward"),
                  ranks > 1 || options.exchange != StateExchange::kChain);
      }
    }
  }
}

TEST(MixersOverSequenceRanks, RefuseAStateForGeneration) {
  const Rows rows = row_cases()[0];
  const SequencePlan plan = plan_of(rows, Partition::kContiguous);
  const SequenceParallel sequence(test_context(), world(), plan, {});
  const Tensor x = take_local(plan, random_tensor({1, rows.length, kHidden}, DType::kF64, "x"), 0);
  for (const MixerOptions& mixer : every_mixer(small_sizes())) {
    MixerState state;
    const LayerContext both{.layout = plan.local(), .state = &state, .sequence = &sequence};
    EXPECT_THROW(run_mixer(mixer, both, x, x), Error) << name_of(mixer);
  }
}

}  // namespace
}  // namespace spanwise::testing
