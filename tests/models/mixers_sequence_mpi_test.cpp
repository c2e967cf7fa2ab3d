// Run under mpirun with several rank counts: every mixer on the parts of a sequence equals itself on whole
// rows, gradients of its parameters (summed over ranks) included.

#include "models/mixers/mixer.h"
#include "tests/parallel/sequence_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kHidden = 12;

MixerOptions small_options(int64_t window) {
  MixerOptions options;
  options.hidden = kHidden;
  options.num_layers = 2;
  options.attention = {.num_heads = 4, .num_kv_heads = 2, .head_dim = 4, .window = window, .qk_norm = true};
  options.linear = {
      .num_heads = 2, .num_value_heads = 4, .key_dim = 4, .value_dim = 6, .conv_bias = true, .chunk = 4};
  return options;
}

struct MixerRun {
  Tensor out, dx;
  std::vector<std::string> names;
  std::vector<Tensor> grads;
};

/// With parameters of its own, the same in every run.
MixerRun run_mixer(MixerKind kind, int64_t window, const MixerContext& context, const Tensor& x,
                   const Tensor& dout) {
  const std::unique_ptr<Mixer> mixer = make_mixer(kind, small_options(window));
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
    for (const MixerName& mixer : mixer_names()) {
      for (const int64_t window : {0, 3}) {
        if (window > 0 && mixer.kind != MixerKind::kAttention) continue;
        const MixerRun expected = run_mixer(mixer.kind, window, {.layout = whole}, x, dout);
        const double rounding =
            rounding_of(DType::kF64, std::max(size_of(expected.grads), size_of({expected.dx})));
        for (const Partition partition : partitions()) {
          SCOPED_TRACE(fmt::format("{}, window {}, {}, {}", mixer.name, window, rows.name, int(partition)));
          const SequencePlan plan = plan_of(rows, partition);
          const SequenceParallel sequence(test_context(), world(), plan, {});
          const MixerRun actual =
              run_mixer(mixer.kind, window, {.layout = plan.local(), .sequence = &sequence},
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
}

using ReceivedBytes = std::map<std::string, int64_t>;  // by the collective's name

/// Of one forward and backward on a row of `length` tokens, one document.
ReceivedBytes received_bytes(MixerKind kind, Partition partition, const SequenceParallelOptions& options,
                             int64_t length) {
  const SequencePlan plan = plan_of({"", 1, length, {0}}, partition);
  const SequenceParallel sequence(test_context(), world(), plan, options);
  const Tensor x = take_local(plan, random_tensor({1, length, kHidden}, DType::kF64, "x"), 0);
  world().reset_traffic();
  run_mixer(kind, 0, {.layout = plan.local(), .sequence = &sequence}, x, x);
  ReceivedBytes received;
  for (const auto& [name, traffic] : world().traffic()) received[name] = traffic.received_bytes;
  return received;
}

TEST(MixersOverSequenceRanks, LinearOnesReceiveTheSameBytesAtAnyLength) {
  const int ranks = world().size();
  for (const MixerName& mixer : mixer_names()) {
    if (mixer.kind == MixerKind::kAttention) continue;
    for (const Partition partition : partitions()) {
      for (const SequenceParallelOptions& options :
           {SequenceParallelOptions{.exchange = StateExchange::kAllGather},
            SequenceParallelOptions{.exchange = StateExchange::kChain},
            SequenceParallelOptions{.exchange = StateExchange::kHeadSplit},
            SequenceParallelOptions{.exchange = StateExchange::kTwoLevel,
            .ranks_per_node = ranks > 1 ? ranks / 2 : 1}}) {
        SCOPED_TRACE(fmt::format("{}, {}, exchange {}", mixer.name, int(partition), int(options.exchange)));
        const ReceivedBytes received = received_bytes(mixer.kind, partition, options, 64);
        EXPECT_EQ(received, received_bytes(mixer.kind, partition, options, 2048));
        const bool convolves = mixer.kind == MixerKind::kMamba2 || mixer.kind == MixerKind::kDeltaNet ||
                               mixer.kind == MixerKind::kGatedDeltaNet;
        EXPECT_EQ(received.contains("halo_forward"), convolves);
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
  for (const MixerName& mixer : mixer_names()) {
    MixerState state;
    const MixerContext both{.layout = plan.local(), .state = &state, .sequence = &sequence};
    EXPECT_THROW(run_mixer(mixer.kind, 0, both, x, x), Error) << mixer.name;
  }
}

}  // namespace
}  // namespace spanwise::testing
