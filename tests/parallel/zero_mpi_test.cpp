// Training with every ZeRO stage over ranks against one rank with all the data. Run under mpirun with several
// rank counts; every rank runs every test.

#include <cmath>
#include <optional>

#include "core/optim/clip.h"
#include "models/language_model.h"
#include "parallel/finite_values.h"
#include "parallel/gradient_reducer.h"
#include "parallel/sharded_adamw.h"
#include "parallel/whole_params.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {
namespace {

Comm& world() {
  static const std::unique_ptr<Comm> comm = [] {
    std::unique_ptr<Comm> made = make_world_comm();
    made->set_timeout(30);  // a rank that fails alone must not keep the others
    return made;
  }();
  return *comm;
}

constexpr int64_t kLength = 9, kVocab = 17;
constexpr int kRows = 12;  // a step's rows over all ranks: 1, 2, 3 and 4 divide it
constexpr double kClipNorm = 0.5;
constexpr int kNumStages = 4;

LanguageModelOptions model_options(bool tied, bool checkpointing) {
  const MixerSizes sizes{.attention = {.num_heads = 2, .num_kv_heads = 1, .head_dim = 64},
                         .heads = {.num_heads = 2, .num_value_heads = 4, .key_dim = 64, .value_dim = 64},
                         .chunk = 64};
  return {.vocab_size = kVocab,
          .tie_embeddings = tied,
          .layers = layers_of("LN", 2, "gated_delta_net", sizes, SwigluOptions{.intermediate = 24}),
          .shared = {.hidden = 16, .norm_eps = 1e-6, .linear = {.init_stddev = 0.02}},
          .activation_checkpointing = checkpointing};
}

std::vector<int32_t> tokens_of(int step, int row, int shift) {
  const RandomStream random(3, "tokens");
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < kLength; ++t) {
    tokens.push_back(int32_t(random.below(uint64_t((step * kRows + row) * 100 + t + shift), kVocab)));
  }
  return tokens;
}

struct Setup {
  int zero_stage = 0;
  int64_t bucket_bytes = 4096;
  int passes = 1;  ///< micro-batches a step
  bool tied = false;
  bool checkpointing = false;
};

// A model in training on some ranks; with a self Comm, the one-rank run.
class Training {
 public:
  Training(const Setup& setup, Comm& comm)
      : setup_(setup),
        comm_(comm),
        model_(model_options(setup.tied, setup.checkpointing)),
        params_(test_context(), model_,
                {.dtype = DType::kF64,
                 .seed = 5,
                 .zero_stage = setup.zero_stage,
                 .bucket_bytes = setup.bucket_bytes,
                 .parts = model_.parts()},
                comm, *tensor_),
        reducer_(params_),
        optimizer_(params_) {
    if (params_.zero_stage() == 3) model_.set_param_gate(&params_);
  }

  void step() {
    forward_backward();
    update();
  }

  // Each rank takes its own rows of the step, in `passes` micro-batches.
  void forward_backward() {
    const int rows = kRows / comm_.size(), rows_a_pass = rows / setup_.passes;
    for (int pass = 0; pass < setup_.passes; ++pass) {
      std::vector<int32_t> tokens, labels;
      for (int i = 0; i < rows_a_pass; ++i) {
        const int row = comm_.rank() * rows + pass * rows_a_pass + i;
        for (const int32_t token : tokens_of(steps_, row, 0)) tokens.push_back(token);
        for (const int32_t label : tokens_of(steps_, row, 1)) labels.push_back(label);
      }
      if (pass + 1 == setup_.passes) reducer_.expect_last_backward();
      const SequenceLayout layout(rows_a_pass, kLength);
      Tape tape(test_context());
      tape.backward(model_.loss(tape, {tokens, labels, layout}, 1.0 / (kRows * kLength)));
    }
    reducer_.finish();
  }

  void update() {
    norm_ = optimizer_.grad_norm();
    optimizer_.step(
        {.lr = 1e-2, .weight_decay = 0.1, .step = ++steps_, .grad_scale = clip_scale(norm_, kClipNorm)});
  }

  // What a checkpoint does: every whole tensor of `other`, through all ranks of its layout, to this one.
  void copy_from(const Training& other) {
    const auto copy = [&](const Tensor& from, const Tensor& to) {
      for (size_t e = 0; e < params_.entries().size(); ++e) {
        const FlatRange all{0, params_.entries()[e].param->global_shape().numel()};
        scatter_piece(params_, to, int(e), all, gather_piece(other.params_, from, int(e), all));
      }
    };
    copy(other.params_.values(), params_.values());
    copy(other.optimizer_.first_moment(), optimizer_.first_moment());
    copy(other.optimizer_.second_moment(), optimizer_.second_moment());
    steps_ = other.steps_;
  }

  ParamStore& params() { return params_; }
  const GradientReducer& reducer() const { return reducer_; }
  const ShardedAdamW& optimizer() const { return optimizer_; }
  double norm() const { return norm_; }

 private:
  Setup setup_;
  Comm& comm_;
  std::unique_ptr<Comm> tensor_ = make_self_comm("tensor");
  LanguageModel model_;
  ParamStore params_;
  GradientReducer reducer_;
  ShardedAdamW optimizer_;
  int steps_ = 0;
  double norm_ = 0;
};

// Whole parameters, one after another.
std::vector<double> whole(const ParamStore& params, const Tensor& flat) {
  std::vector<double> all;
  for (size_t e = 0; e < params.entries().size(); ++e) {
    const int64_t numel = params.entries()[e].param->global_shape().numel();
    for (const double v : to_doubles(gather_piece(params, flat, int(e), {0, numel}))) all.push_back(v);
  }
  return all;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i]))) << "element " << i;
  }
}

class EveryStage : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Zero, EveryStage, ::testing::Range(0, kNumStages));

TEST_P(EveryStage, TrainsAsOneRankWithAllTheData) {
  constexpr int kSteps = 4;
  for (const bool tied : {false, true}) {
    const std::unique_ptr<Comm> self = make_self_comm();
    Training alone({.tied = tied}, *self);
    for (int i = 0; i < kSteps; ++i) alone.step();
    ASSERT_GT(alone.norm(), kClipNorm) << "clipping is not tested";
    const std::vector<double> expected = whole(alone.params(), alone.params().values());
    for (const int64_t bucket_bytes : {1, 4096, 1 << 20}) {
      for (const int passes : {1, 3}) {
        if (kRows / world().size() % passes != 0) continue;
        Training training({.zero_stage = GetParam(),
                           .bucket_bytes = bucket_bytes,
                           .passes = passes,
                           .tied = tied,
                           .checkpointing = passes == 3},
                          world());
        for (int i = 0; i < kSteps; ++i) training.step();
        EXPECT_NEAR(training.norm(), alone.norm(), 1e-12 * alone.norm());
        expect_near(whole(training.params(), training.params().values()), expected, 1e-12);
      }
    }
  }
}

TEST_P(EveryStage, LeavesTheSameBitsOnEveryRank) {
  Training training({.zero_stage = GetParam()}, world());
  for (int i = 0; i < 3; ++i) training.step();
  std::vector<double> norms{training.norm(), -training.norm()};
  world().all_reduce("test", norms, Reduce::kMax);
  EXPECT_EQ(norms[0], -norms[1]);
  if (training.params().zero_stage() == 3) return;  // values are not on every rank
  const Tensor& values = training.params().values();
  Tensor largest = Tensor::empty(test_context(), values.shape(), values.dtype());
  largest.copy_from(values);
  world().all_reduce("test", largest, Reduce::kMax).wait();
  EXPECT_TRUE(bitwise_equal(values, largest));
}

TEST_P(EveryStage, ReducesOnceAStepWhateverTheMicroBatches) {
  const int64_t ranks = world().size();
  for (const int passes : {1, 3}) {
    Training training({.zero_stage = GetParam(), .passes = passes}, world());
    training.step();
    world().reset_traffic();
    training.step();
    const int64_t bytes = training.params().layout().numel() * int64_t(sizeof(double));
    const int64_t num_buckets = int64_t(training.params().buckets().size());
    ASSERT_GT(num_buckets, 3);
    const auto& traffic = world().traffic();
    const int stage = training.params().zero_stage();
    EXPECT_EQ(traffic.at("grad_reduce").calls, num_buckets);
    EXPECT_EQ(traffic.at("grad_reduce").received_bytes, (stage == 0 ? 2 : 1) * (ranks - 1) * bytes / ranks);
    if (stage == 1 || stage == 2) {
      EXPECT_EQ(traffic.at("param_gather").calls, num_buckets);
      EXPECT_EQ(traffic.at("param_gather").received_bytes, (ranks - 1) * bytes / ranks);
    }
    // Each part once forward and once backward.
    if (stage == 3) {
      EXPECT_EQ(traffic.at("param_gather").received_bytes, 2 * passes * (ranks - 1) * bytes / ranks);
    }
  }
}

TEST_P(EveryStage, ShrinksWhatItSaysItShrinks) {
  const int64_t ranks = world().size();
  const auto live = [] { return int64_t(test_context().memory().live_bytes); };
  const int64_t before = live();
  Training training({.zero_stage = GetParam()}, world());
  const ParamStore& params = training.params();
  const int64_t all = params.layout().numel() * int64_t(sizeof(double)), slices = all / ranks;
  const int stage = params.zero_stage();
  const int64_t moments = stage >= 1 ? slices : all, grads = stage >= 2 ? slices : all,
                values = stage == 3 ? slices : all;
  EXPECT_EQ(int64_t(training.optimizer().first_moment().bytes()), moments);
  // The allocator rounds each buffer up, by an eighth at most or to its least.
  const auto expect_live = [&](int64_t bytes) {
    EXPECT_GE(live() - before, bytes);
    EXPECT_LE(live() - before, bytes * 9 / 8 + 4096 + 512 * int64_t(params.buckets().size()));
  };
  for (int step = 0; step < 2; ++step) {
    expect_live(values + 2 * moments);
    training.forward_backward();
    expect_live(values + grads + 2 * moments);
    training.update();
    expect_live(values + 2 * moments);
  }
}

TEST_P(EveryStage, ReducesToTheSameBitsAsStageZero) {
  for (const int passes : {1, 3}) {
    if (kRows / world().size() % passes != 0) continue;
    Training training({.zero_stage = GetParam(), .passes = passes}, world()),
        replicated({.zero_stage = 0, .passes = passes}, world());
    training.forward_backward();
    replicated.forward_backward();
    const auto gradients = [](Training& of) {
      ParamStore& params = of.params();
      const Tensor flat = params.make_moment();
      for (size_t b = 0; b < params.buckets().size(); ++b) {
        const ParamBucket& bucket = params.buckets()[b];
        params.view(flat, bucket, params.updated_range(bucket)).copy_from(params.reduced_grad(int(b)));
      }
      return whole(params, flat);
    };
    EXPECT_EQ(gradients(training), gradients(replicated));
  }
}

TEST_P(EveryStage, StartsReductionsBeforeBackwardEnds) {
  for (const bool tied : {false, true}) {
    Training training({.zero_stage = GetParam(), .tied = tied}, world());
    training.step();
    // All but the tape's last gradients are on their way when it is done; here even these, as every parameter
    // is used.
    EXPECT_EQ(training.reducer().num_overlapped(), int(training.params().buckets().size()));
  }
}

TEST_P(EveryStage, GoesOnFromAnotherLayoutsTensors) {
  Training training({.zero_stage = GetParam()}, world());
  for (int i = 0; i < 2; ++i) training.step();
  // The ranks but the last one, where more than two; the last one alone.
  const bool last = world().rank() + 1 == world().size() && world().size() > 2;
  const std::unique_ptr<Comm> fewer = world().split(last, "fewer");
  for (const int stage : {0, kNumStages - 1}) {
    Training other({.zero_stage = stage, .bucket_bytes = 1000}, *fewer);
    other.copy_from(training);
    EXPECT_EQ(whole(other.params(), other.params().values()),
              whole(training.params(), training.params().values()));
    EXPECT_EQ(whole(other.params(), other.optimizer().second_moment()),
              whole(training.params(), training.optimizer().second_moment()));
    other.step();
    Training on({.zero_stage = GetParam()}, world());
    on.copy_from(training);
    on.step();
    EXPECT_NEAR(other.norm(), on.norm(), 1e-12 * on.norm());
    expect_near(whole(other.params(), other.params().values()), whole(on.params(), on.params().values()),
                1e-12);
  }
}

TEST(ZeroStage3, OnlyAcquiredPartsHaveValues) {
  if (world().size() == 1) {  // one rank's slice is everything
    EXPECT_EQ(Training({.zero_stage = 3}, world()).params().zero_stage(), 0);
    return;
  }
  Training training({.zero_stage = 3, .checkpointing = true}, world());
  training.step();
  for (const ParamEntry& entry : training.params().entries()) {
    EXPECT_FALSE(entry.param->var.value().defined()) << entry.name << " stays after the step";
  }
  training.params().acquire(1, ParamGate::kNoPart);
  for (const ParamEntry& entry : training.params().entries()) {
    EXPECT_EQ(entry.param->var.value().defined(), entry.name.starts_with("model.layers.0."));
  }
  training.params().release(1);
}

TEST(ZeroStage3, ThePartThatIsReadNextIsOnItsWay) {
  if (world().size() == 1) return;
  Training training({.zero_stage = 3}, world());
  ParamStore& params = training.params();
  const auto gathered = [] { return world().traffic().at("param_gather").calls; };
  world().reset_traffic();
  params.acquire(1, ParamGate::kNoPart);
  const int64_t alone = gathered();
  params.release(1);
  params.acquire(1, 2);
  const int64_t both = gathered() - alone;
  EXPECT_GT(both, alone);
  for (size_t b = 0; b < params.buckets().size(); ++b) {
    if (params.buckets()[b].part == 2) EXPECT_THROW(params.share_updated_values(int(b)), Error);
  }
  params.release(1);
  params.acquire(2, ParamGate::kNoPart);
  EXPECT_EQ(gathered(), alone + both) << "part 2 was gathered twice";
  for (const ParamEntry& entry : params.entries())
    EXPECT_EQ(entry.param->var.value().defined(), entry.name.starts_with("model.layers.1."));
  params.release(2);
}

// A parameter that only some ranks use must not change the order in which ranks reduce.
TEST_P(EveryStage, ParametersUnusedOnSomeRanksAreReduced) {
  struct Sum : Module {
    Param a{{20}, init::constant(1)}, b{{20}, init::constant(1)}, c{{20}, init::constant(1)};
    void visit(const std::string& prefix, const ParamVisitor& visitor) override {
      visitor(prefix + "a", a);
      visitor(prefix + "b", b);
      visitor(prefix + "c", c);
    }
  } module;
  const std::unique_ptr<Comm> tensor = make_self_comm("tensor");
  ParamStore params(test_context(), module, {.zero_stage = GetParam(), .bucket_bytes = 1}, world(), *tensor);
  GradientReducer reducer(params);
  params.acquire(0, ParamGate::kNoPart);
  reducer.expect_last_backward();
  Tape tape(test_context());
  std::vector<Var> outputs;
  std::vector<Tensor> grads;
  for (const Param* param : {&module.a, &module.b}) {
    if (param == &module.b && world().rank() != 0) continue;
    const Var var = param->var;
    outputs.push_back(Var(Tensor::zeros(test_context(), {1}, DType::kF32), true));
    grads.push_back(Tensor::from<float>(test_context(), {1}, {1}));
    tape.record({var}, {outputs.back()}, [var] {
      var.add_grad(test_context(), Tensor::from<float>(test_context(), {20}, std::vector<float>(20, 1)));
    });
  }
  tape.backward(outputs, grads);
  params.release(0);
  reducer.finish();
  for (size_t b = 0; b < 3; ++b) {
    const ParamBucket& bucket = params.buckets()[b];
    const double expected = std::vector<double>{double(world().size()), 1, 0}[b];
    params.layout().for_each_entry(bucket, params.updated_range(bucket), [&](int e, FlatRange part) {
      const int64_t at = params.entries()[e].offset + part.begin - params.updated_range(bucket).begin;
      for (const double g : to_doubles(params.reduced_grad(int(b)).slice_flat(at, {part.numel()}))) {
        EXPECT_EQ(g, expected) << "bucket " << b;
      }
    });
  }
}

TEST(ZeroMpi, ANumberThatIsNotFiniteIsFoundOnEveryRankWhicheverHoldsIt) {
  for (int stage = 0; stage < kNumStages; ++stage) {
    Training training({.zero_stage = stage}, world());
    training.step();
    const ParamStore& params = training.params();
    for (const Tensor& flat : {params.values(), training.optimizer().second_moment()}) {
      EXPECT_EQ(first_not_finite(params, flat), "") << "stage " << stage;
      for (size_t e = 0; e < params.entries().size(); ++e) {
        const int64_t last = params.entries()[e].param->global_shape().numel() - 1;
        const auto set = [&](double value) {
          const Tensor one = Tensor::from<double>(test_context(), {1}, {value});
          scatter_piece(params, flat, int(e), {last, last + 1}, one);
        };
        for (const double bad : {NAN, INFINITY, -INFINITY}) {
          set(bad);
          EXPECT_EQ(first_not_finite(params, flat), params.entries()[e].name) << "stage " << stage;
        }
        set(-0.5);
      }
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
