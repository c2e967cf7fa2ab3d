// Run under mpirun with several rank counts: every mixer and the whole model, divided over all ranks, against
// the same on one rank.

#include "parallel/tensor_parallel.h"

#include <limits>

#include "models/language_model.h"
#include "parallel/param_store.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/small_mixers.h"
#include "tests/testing/user_error.h"

namespace spanwise::testing {
namespace {

Comm& world() {
  static const std::unique_ptr<Comm> comm = make_world_comm();
  return *comm;
}

TensorGroup all_ranks() {
  return {&world()};
}

// Relative.
double tolerance(DType dtype) {
  return dtype == DType::kF64 ? 1e-10 : 1e-5;
}

constexpr int64_t kHidden = 12;

SharedOptions shared_over(const TensorGroup& tensor) {
  // Large weights, so that every path carries a visible gradient.
  return {.hidden = kHidden, .norm_eps = 1e-6, .linear = {.init_stddev = 0.4}, .tensor = tensor};
}
std::unique_ptr<Mixer> make_small(const MixerOptions& options, const TensorGroup& tensor) {
  return make_mixer(options, shared_over(tensor), {.layer = 1, .num_layers = 3});
}

MixerSizes small_sizes() {
  return {.attention = {.num_heads = 4,
                        .num_kv_heads = 4,
                        .head_dim = 4,
                        .qk_norm = true,
                        .qkv_bias = true,
                        .output_gate = true},
          .heads = {.num_heads = 4, .num_value_heads = 4, .key_dim = 4, .value_dim = 6}};
}

// Values of F64 parameters: `like`'s, each moved up or down by one F32 rounding, at random, if so asked.
enum class Move { kNothing, kByAnF32Rounding };
Tensor moved(const Tensor& like, const std::string& name, Move move) {
  std::vector<double> values = to_doubles(like);
  const RandomStream random(17, name);
  const double by = move == Move::kNothing ? 0 : std::numeric_limits<float>::epsilon() / 2;
  for (size_t i = 0; i < values.size(); ++i) values[i] *= 1 + (random.below(i, 2) == 0 ? by : -by);
  return Tensor::from(test_context(), like.shape(), values);
}

// What a result is judged by: the same on one rank in fp64, and the bound of its rounding. In F32 that is
// what rounding every operand once more moves the result by, which the order of sums does not touch: some of
// these gradients (of maps whose products have either sign, behind a norm) it moves by 400 times itself.
struct Judged {
  Tensor truth;
  double rounding;
};
using Results = std::vector<Tensor>;
std::vector<Judged> judge(DType dtype, const Results& exact, const Results& nudged) {
  constexpr double kOrders = 8;  // 1.5 was seen
  const double common = rounding_of(dtype, size_of(exact));
  std::vector<Judged> judged;
  for (size_t i = 0; i < exact.size(); ++i) {
    double rounding = common;
    if (dtype == DType::kF32) {
      const std::vector<double> a = to_doubles(exact[i]), b = to_doubles(nudged[i]);
      double largest = 0;
      for (size_t e = 0; e < a.size(); ++e) largest = std::max(largest, std::abs(a[e] - b[e]));
      rounding += kOrders * largest;
    }
    judged.push_back({exact[i], rounding});
  }
  return judged;
}
::testing::AssertionResult as_judged(const Tensor& got, const Judged& expected, DType dtype) {
  return near(got, expected.truth, tolerance(dtype), expected.rounding);
}

Results gradients_of(const ParamStore& params) {
  Results grads;
  for (const ParamEntry& entry : params.entries()) grads.push_back(entry.param->var.grad());
  return grads;
}

// Every parameter of `divided` against `whole`'s of the same name: the initial value a bit-identical slice,
// the gradients, put together, as expected.
void expect_equal_parameters(const ParamStore& divided, const ParamStore& whole, DType dtype,
                             const std::vector<Judged>& expected_gradients) {
  ASSERT_EQ(divided.entries().size(), whole.entries().size());
  for (size_t i = 0; i < whole.entries().size(); ++i) {
    const ParamEntry &part = divided.entries()[i], &expected = whole.entries()[i];
    ASSERT_EQ(part.name, expected.name);
    const Param& param = *part.param;
    ASSERT_EQ(param.global_shape(), expected.param->shape) << part.name;
    const Tensor grad = Tensor::zeros(test_context(), param.global_shape(), dtype);
    dispatch_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      const T *value = param.var.value().data<T>(), *mine = param.var.grad().data<T>();
      const T* all = expected.param->var.value().template data<T>();
      for (const ElementRun& run : element_runs(param)) {
        EXPECT_TRUE(std::equal(value + run.local, value + run.local + run.count, all + run.global))
            << part.name << " at global index " << run.global;
        std::copy_n(mine + run.local, run.count, grad.data<T>() + run.global);
      }
    });
    if (param.placement.sharded() || param.placement.partial_gradient) {
      world().all_reduce("test", grad).wait();
    }
    EXPECT_TRUE(as_judged(grad, expected_gradients[i], dtype)) << part.name;
  }
}

struct MixerCase {
  std::string name;
  MixerOptions options;
  friend void PrintTo(const MixerCase& c, std::ostream* out) { *out << c.name; }
};

std::vector<MixerCase> mixer_cases() {
  std::vector<MixerCase> cases;
  // Two key heads or groups: divided over two ranks, held by two of four ranks each.
  MixerSizes grouped = small_sizes();
  grouped.heads.num_heads = grouped.attention.num_kv_heads = 2;
  grouped.output_gate = grouped.short_conv = false;
  for (const std::string& name : mixer_names()) {
    cases.push_back({name, mixer_named(name, small_sizes())});
    cases.push_back({name + "_grouped", mixer_named(name, grouped)});
  }
  MixerSizes window = small_sizes(), elu = small_sizes();
  window.attention = {.num_heads = 4, .num_kv_heads = 1, .head_dim = 4, .window = 3};
  cases.push_back({"attention_one_kv_head", mixer_named("attention", window)});
  elu.feature_map = FeatureMap::kElu;
  cases.push_back({"linear_attention_elu", mixer_named("linear_attention", elu)});
  return cases;
}

struct Passed {
  Tensor y, dx;
};

// Forward and backward of a mixer between copy_to and reduce_from.
Passed pass(const Mixer& mixer, const TensorGroup& group, const Tensor& x, const Tensor& dy,
            bool checkpointed) {
  Context& ctx = test_context();
  Tape tape(ctx);
  const Var input(x, true);
  const SequenceLayout layout(2, 11, {0, 5, 6, 11, 14});
  const auto segment = [&](Tape& t, const std::vector<Var>& in) {
    return std::vector<Var>{
        reduce_from(t, group, mixer.forward(t, copy_to(t, group, in[0]), {.layout = layout}))};
  };
  const Var y = checkpointed ? checkpoint(tape, segment, {input})[0] : segment(tape, {input})[0];
  tape.backward({y}, {dy});
  return {y.value(), input.grad()};
}

class TensorParallelMixers : public ::testing::TestWithParam<MixerCase> {};

void set_values(const ParamStore& from, const ParamStore& to, Move move) {
  for (size_t i = 0; i < from.entries().size(); ++i) {
    const ParamEntry& entry = from.entries()[i];
    to.entries()[i].param->var.value().copy_from(moved(entry.param->var.value(), entry.name, move));
  }
}

// [y, dx, gradients of parameters] of the mixer on one rank in fp64, with the values of `params`.
Results pass_in_fp64(const MixerCase& c, const ParamStore& params, const Tensor& x, const Tensor& dy,
                     Move move) {
  const std::unique_ptr<Mixer> mixer = make_small(c.options, {});
  const ParamStore exact(test_context(), *mixer, DType::kF64, 7);
  set_values(params, exact, move);
  const Passed passed = pass(*mixer, {}, moved(x, "x", move), moved(dy, "dy", move), false);
  Results results{passed.y, passed.dx};
  for (const Tensor& grad : gradients_of(exact)) results.push_back(grad);
  return results;
}

TEST_P(TensorParallelMixers, EqualOneRank) {
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    const std::unique_ptr<Mixer> whole = make_small(GetParam().options, {});
    const std::unique_ptr<Mixer> divided = make_small(GetParam().options, all_ranks());
    const ParamStore whole_params(test_context(), *whole, dtype, 7),
        params(test_context(), *divided, dtype, 7);
    const Tensor x = random_tensor({2, 11, kHidden}, dtype, "x"), dy = random_tensor(x.shape(), dtype, "dy");
    const std::vector<Judged> expected =
        judge(dtype, pass_in_fp64(GetParam(), whole_params, x, dy, Move::kNothing),
              pass_in_fp64(GetParam(), whole_params, x, dy, Move::kByAnF32Rounding));
    const Passed got = pass(*divided, all_ranks(), x, dy, false);
    EXPECT_TRUE(as_judged(got.y, expected[0], dtype));
    EXPECT_TRUE(as_judged(got.dx, expected[1], dtype));
    expect_equal_parameters(params, whole_params, dtype, {expected.begin() + 2, expected.end()});
  }
}

int64_t forward_calls() {
  int64_t calls = 0;
  for (const auto& [name, traffic] : world().traffic()) {
    if (name.find("backward") == std::string::npos) calls += traffic.calls;
  }
  return calls;
}

TEST_P(TensorParallelMixers, RecomputationIsBitwiseEqualAndDoesNotCommunicateForwardAgain) {
  const std::unique_ptr<Mixer> mixer = make_small(GetParam().options, all_ranks());
  ParamStore params(test_context(), *mixer, DType::kF64, 7);
  const Tensor x = random_tensor({2, 11, kHidden}, DType::kF64, "x"),
               dy = random_tensor(x.shape(), DType::kF64, "dy");
  world().reset_traffic();
  const Passed plain = pass(*mixer, all_ranks(), x, dy, false);
  const int64_t calls = forward_calls();
  ASSERT_EQ(params.buckets().size(), 1u);
  const Tensor grads = params.bucket_grad(0);
  params.drop_grads();
  world().reset_traffic();
  const Passed again = pass(*mixer, all_ranks(), x, dy, true);
  EXPECT_EQ(forward_calls(), calls);
  EXPECT_EQ(calls > 0, world().size() > 1);
  EXPECT_TRUE(bitwise_equal(plain.y, again.y));
  EXPECT_TRUE(bitwise_equal(plain.dx, again.dx));
  EXPECT_TRUE(bitwise_equal(grads, params.bucket_grad(0)));
}

INSTANTIATE_TEST_SUITE_P(Table, TensorParallelMixers, ::testing::ValuesIn(mixer_cases()),
                         [](const auto& info) { return info.param.name; });

struct Tokens {
  Tokens() : layout(2, 9, {0, 4, 9}), tokens(18), labels(18) {
    const RandomStream random(3, "tokens");
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = int32_t(random.below(i, 17));
      labels[i] = i % 5 == 3 ? -100 : int32_t(random.below(1000 + i, 17));
    }
  }
  SequenceLayout layout;
  std::vector<int32_t> tokens, labels;
};

LanguageModelOptions hybrid_options() {
  MixerSizes sizes = small_sizes();
  sizes.attention.num_kv_heads = 2;
  return {.vocab_size = 17,
          .layers = layers_of("LN", 4, "gated_delta_net", sizes, SwigluOptions{.intermediate = 19}),
          .shared = shared_over({}),
          .loss_chunk_rows = 5};
}

double train(const LanguageModel& model, const Tokens& data) {
  Tape tape(test_context());
  const Var loss = model.loss(tape, {data.tokens, data.labels, data.layout}, 0.25);
  tape.backward(loss);
  return to_doubles(loss.value())[0];
}

// Of the model on one rank in fp64, with the values of `params`.
Results gradients_in_fp64(const LanguageModelOptions& options, const ParamStore& params, const Tokens& data,
                          Move move) {
  LanguageModel model(options);
  const ParamStore exact(test_context(), model, DType::kF64, 11);
  set_values(params, exact, move);
  train(model, data);
  return gradients_of(exact);
}

TEST(TensorParallelModel, LossAndEveryGradientEqualOneRank) {
  const Tokens data;
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    for (const bool tied : {false, true}) {
      LanguageModelOptions options = hybrid_options();
      options.tie_embeddings = tied;
      LanguageModel whole(options);
      const ParamStore whole_params(test_context(), whole, dtype, 11);
      const double expected = train(whole, data);
      const std::vector<Judged> gradients =
          judge(dtype, gradients_in_fp64(options, whole_params, data, Move::kNothing),
                gradients_in_fp64(options, whole_params, data, Move::kByAnF32Rounding));
      options.shared.tensor = all_ranks();
      for (const bool checkpointing : {false, true}) {
        for (const bool shard_norms : {false, true}) {
          SCOPED_TRACE(fmt::format("{} tied {} checkpointing {} sharded norms {}", name_of(dtype), tied,
                                   checkpointing, shard_norms));
          options.activation_checkpointing = checkpointing;
          options.shard_norms = shard_norms;
          LanguageModel divided(options);
          const ParamStore params(test_context(), divided, dtype, 11);
          EXPECT_NEAR(train(divided, data), expected, tolerance(dtype) * expected);
          expect_equal_parameters(params, whole_params, dtype, gradients);
        }
      }
    }
  }
}

TEST(TensorParallelModel, ARankHoldsItsShareOfTheParametersAndNeverWholeLogits) {
  LanguageModelOptions options = hybrid_options();
  const int64_t whole = LanguageModel(options).num_parameters();
  options.shared.tensor = all_ranks();
  LanguageModel divided(options);
  // Norms and shared key/value heads are all that is not divided.
  EXPECT_LT(divided.num_parameters(), whole / world().size() + whole / 8 + 1);
  divided.visit("", [&](const std::string& name, Param& param) {
    if (name == "lm_head.weight") {
      EXPECT_LE(param.shape[0], 17 / world().size() + 1);
    }
  });
}

TEST(TensorParallelModel, ValuesOutsideThePairAreBitwiseEqualOnEveryRank) {
  LanguageModelOptions options = hybrid_options();
  options.shared.tensor = all_ranks();
  LanguageModel model(options);
  const ParamStore params(test_context(), model, DType::kF32, 11);
  std::vector<double> values{train(model, Tokens())};
  for (const ParamEntry& entry : params.entries()) {
    const Placement& placement = entry.param->placement;
    if (placement.sharded() || placement.partial_gradient) continue;
    for (const double g : to_doubles(entry.param->var.grad())) values.push_back(g);
  }
  std::vector<double> largest = values;
  world().all_reduce("test", largest, Reduce::kMax);
  EXPECT_GT(values.size(), size_t(9 * kHidden));
  EXPECT_EQ(values, largest);
}

// What a rank sums itself is summed in the same order in both: only norms see fewer rows.
TEST(TensorParallelModel, ShardingNormsChangesNoBitsButThoseOfTheirGradients) {
  const Tokens data;
  LanguageModelOptions options = hybrid_options();
  options.shared.tensor = all_ranks();
  LanguageModel whole(options);
  options.shard_norms = true;
  LanguageModel sharded(options);
  const ParamStore expected(test_context(), whole, DType::kF32, 11),
      params(test_context(), sharded, DType::kF32, 11);
  EXPECT_EQ(train(sharded, data), train(whole, data));
  int norms = 0;
  for (size_t i = 0; i < params.entries().size(); ++i) {
    const ParamEntry& entry = params.entries()[i];
    const bool between_layers = entry.name.find("attn_norm.") != std::string::npos ||
                                entry.name.find("mlp_norm.") != std::string::npos ||
                                entry.name == "model.norm.weight";
    norms += between_layers;
    if (between_layers) {
      EXPECT_EQ(entry.param->placement.partial_gradient, world().size() > 1) << entry.name;
    } else {
      EXPECT_TRUE(bitwise_equal(entry.param->var.grad(), expected.entries()[i].param->var.grad()))
          << entry.name;
    }
  }
  EXPECT_EQ(norms, 2 * 4 + 1);
}

TEST(TensorParallelModel, ShardedNormsReceiveTheBytesOfTheFormulaWithAndWithoutCheckpointing) {
  const Tokens data;
  LanguageModelOptions options = hybrid_options();
  options.shared.tensor = all_ranks();
  options.shard_norms = true;
  for (const bool checkpointing : {false, true}) {
    options.activation_checkpointing = checkpointing;
    LanguageModel model(options);
    const ParamStore params(test_context(), model, DType::kF64, 11);
    world().reset_traffic();
    train(model, data);
    const int64_t ranks = world().size(), rows = (18 + ranks - 1) / ranks, calls = 2 * 4 + 1;
    for (const char* name :
         {"gather_rows", "gather_rows backward", "scatter_rows_sum", "scatter_rows_sum backward"}) {
      const auto traffic = world().traffic().find(name);
      ASSERT_EQ(traffic != world().traffic().end(), ranks > 1) << name;
      if (ranks == 1) continue;
      EXPECT_EQ(traffic->second.calls, calls) << name;
      EXPECT_EQ(traffic->second.received_bytes, calls * (ranks - 1) * rows * kHidden * 8) << name;
    }
    for (const char* name : {"copy_to backward", "reduce_from"}) {
      EXPECT_EQ(world().traffic().count(name), 0) << name;
    }
  }
}

// A loss Σ c∘y: the gradients are known.
TEST(TensorParallel, RowsAreGatheredAndScatteredAsTheHeaderSaysForAnyNumberOfRows) {
  Context& ctx = test_context();
  const int64_t ranks = world().size(), rank = world().rank(), width = 3;
  for (const int64_t rows : {int64_t{1}, ranks, 2 * ranks + 1, 3 * ranks - 1}) {
    SCOPED_TRACE(rows);
    const int64_t held = (rows + ranks - 1) / ranks, padded = held * ranks;
    const Shape whole{1, rows, width};
    // Row i of `all` and of rank r's `terms`; the padding of `own` must not matter.
    const Tensor all = random_tensor({padded, width}, DType::kF64, "all");
    const auto term = [&](int64_t r) { return random_tensor(whole, DType::kF64, fmt::format("term {}", r)); };
    const auto sum_of_terms = [&](int64_t row, int64_t column) {
      double sum = 0;
      for (int64_t r = 0; r < ranks; ++r) sum += term(r).data<double>()[row * width + column];
      return row < rows ? sum : 0;
    };
    const Tensor own = Tensor::empty(ctx, {held, width}, DType::kF64);
    own.copy_from(all.row_range(rank * held, (rank + 1) * held));
    const auto expect_sums = [&](const Tensor& mine) {
      ASSERT_EQ(mine.shape(), (Shape{held, width}));
      for (int64_t i = 0; i < held * width; ++i) {
        EXPECT_NEAR(mine.data<double>()[i], sum_of_terms(rank * held + i / width, i % width), 1e-14) << i;
      }
    };
    const auto expect_all = [&](const Tensor& got) {
      ASSERT_EQ(got.shape(), whole);
      EXPECT_TRUE(std::equal(all.data<double>(), all.data<double>() + rows * width, got.data<double>()));
    };

    Tape gathering(ctx);
    const Var x(own, true), gathered = gather_rows(gathering, all_ranks(), x, whole);
    expect_all(gathered.value());
    gathering.backward({gathered}, {term(rank)});
    expect_sums(x.grad());

    Tape scattering(ctx);
    const Var terms(term(rank), true), scattered = scatter_rows_sum(scattering, all_ranks(), terms);
    expect_sums(scattered.value());
    scattering.backward({scattered}, {own});
    expect_all(terms.grad());
  }
}

TEST(TensorParallel, RefusesWhatTheRanksCannotDivideAndNamesTheSetting) {
  if (world().size() == 1) {
    EXPECT_EQ(divide(all_ranks(), 3, "heads").size(), 3);
    return;
  }
  MixerSizes sizes = small_sizes();
  sizes.attention.num_heads = sizes.attention.num_kv_heads = 2 * world().size() + 1;
  sizes.heads.num_heads = sizes.heads.num_value_heads = 2 * world().size() + 1;
  for (const MixerOptions& mixer : every_mixer(sizes)) {
    const std::string field = fmt::format("{}.num_", name_of(mixer));
    EXPECT_TRUE(user_error_of([&] { make_small(mixer, all_ranks()); }).starts_with(field)) << field;
  }
  sizes.attention.num_heads = 6 * world().size();
  sizes.attention.num_kv_heads = 3;
  const MixerOptions attention = mixer_named("attention", sizes);
  const std::string message = user_error_of([&] { make_small(attention, all_ranks()); });
  EXPECT_TRUE(message.starts_with("attention.num_kv_heads = 3")) << message;
  EXPECT_NE(user_error_of([] { divide_unevenly(all_ranks(), 1, "model.vocab_size"); }).find("vocab_size = 1"),
            std::string::npos);
}

}  // namespace
}  // namespace spanwise::testing
