#include "models/language_model.h"

#include <cmath>
#include <set>

#include "parallel/param_store.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {
namespace {

const MixerSizes kSizes{.attention = {.num_heads = 2, .num_kv_heads = 1, .head_dim = 6},
                        .heads = {.num_heads = 2, .num_value_heads = 2, .key_dim = 4, .value_dim = 6}};
const SwigluOptions kSwiglu{.intermediate = 16};

LanguageModelOptions hybrid_options(std::string_view pattern = "LN",
                                    std::string_view linear = "gated_delta_net", int64_t num_layers = 4) {
  return {.vocab_size = 17,
          .layers = layers_of(pattern, num_layers, linear, kSizes, kSwiglu),
          .shared = {.hidden = 12, .norm_eps = 1e-6, .linear = {.init_stddev = 0.3}},
          .loss_chunk_rows = 5};
}

void recompute_feed_forwards(LanguageModelOptions& options, size_t layers) {
  for (size_t i = 0; i < layers; ++i)
    std::get<SwigluOptions>(options.layers[i].feed_forward).recompute = true;
}

struct Tokens {
  explicit Tokens(int64_t batch, int64_t length, int32_t vocab)
      : layout(batch, length, {0, 4, length}), tokens(size_t(batch * length)), labels(tokens.size()) {
    const RandomStream random(3, "tokens");
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = int32_t(random.below(i, uint64_t(vocab)));
      labels[i] = i % 5 == 3 ? -100 : int32_t(random.below(1000 + i, uint64_t(vocab)));
    }
  }
  SequenceLayout layout;
  std::vector<int32_t> tokens, labels;
};

struct Trained {
  double loss;
  std::vector<Tensor> grads;  ///< in the order of the parameters
};

void expect_bitwise_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(bitwise_equal(a[i], b[i])) << "parameter " << i;
}

std::vector<Tensor> gradients_of(const ParamStore& params) {
  std::vector<Tensor> grads;
  for (const ParamEntry& entry : params.entries()) grads.push_back(entry.param->var.grad());
  return grads;
}

Trained run(const LanguageModelOptions& options, DType dtype, const Tokens& data) {
  Context& ctx = test_context();
  LanguageModel model(options);
  ParamStore params(ctx, model, dtype, 11);
  Tape tape(ctx);
  const Var loss = model.loss(tape, {data.tokens, data.labels, data.layout}, 0.25);
  tape.backward(loss);
  return {to_doubles(loss.value())[0], gradients_of(params)};
}

TEST(LanguageModel, ActivationCheckpointingIsBitwiseEqual) {
  const Tokens data(2, 9, 17);
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    LanguageModelOptions options = hybrid_options();
    const Trained plain = run(options, dtype, data);
    options.activation_checkpointing = true;
    const Trained checkpointed = run(options, dtype, data);
    EXPECT_EQ(plain.loss, checkpointed.loss);
    expect_bitwise_equal(plain.grads, checkpointed.grads);
  }
}

TEST(LanguageModel, AStoresGradientsOfMicroBatchesAreBitwiseThoseAddedToZeros) {
  Context& ctx = test_context();
  const Tokens data(2, 9, 17);
  for (const bool tied : {false, true}) {
    LanguageModelOptions options = hybrid_options();
    options.tie_embeddings = tied;
    LanguageModel model(options);
    ParamStore params(ctx, model, DType::kF32, 11);
    const auto run_passes = [&](int passes) {
      for (int pass = 0; pass < passes; ++pass) {
        Tape tape(ctx);
        tape.backward(model.loss(tape, {data.tokens, data.labels, data.layout}, 0.25 + pass));
      }
      return gradients_of(params);
    };
    for (const int passes : {1, 3}) {
      const std::vector<Tensor> written = run_passes(passes);
      std::vector<Var> of_store;
      for (const ParamEntry& entry : params.entries()) {
        of_store.push_back(entry.param->var);
        entry.param->var =
            Var::make_parameter(of_store.back().value(), Tensor::zeros(ctx, entry.param->shape, DType::kF32));
      }
      expect_bitwise_equal(written, run_passes(passes));
      for (size_t i = 0; i < of_store.size(); ++i) params.entries()[i].param->var = of_store[i];
      params.drop_grads();
    }
  }
}

TEST(LanguageModel, RecomputingMixersAndFeedForwardsIsBitwiseEqual) {
  const Tokens data(2, 9, 17);
  for (const std::string& mixer : mixer_names()) {
    LanguageModelOptions options = hybrid_options("LN", mixer);
    const Trained plain = run(options, DType::kF32, data);
    options.shared.recompute_mixers = true;
    recompute_feed_forwards(options, 3);
    const Trained recomputed = run(options, DType::kF32, data);
    EXPECT_EQ(plain.loss, recomputed.loss) << mixer;
    SCOPED_TRACE(mixer);
    expect_bitwise_equal(plain.grads, recomputed.grads);
  }
}

TEST(LanguageModel, RecomputingTakesLessMemory) {
  const Tokens data(2, 256, 17);
  const auto peak = [&](bool mixers, size_t feed_forwards) {
    LanguageModelOptions options = hybrid_options("L");
    options.shared.recompute_mixers = mixers;
    recompute_feed_forwards(options, feed_forwards);
    test_context().reset_peak();
    run(options, DType::kF32, data);
    return test_context().memory().peak_bytes;
  };
  const size_t plain = peak(false, 0), mixers = peak(true, 0), half = peak(true, 2), all = peak(true, 4);
  EXPECT_LT(mixers, plain);
  EXPECT_LT(half, mixers);
  EXPECT_LT(all, half);
}

void check_loss_gradients(LanguageModel& model, const Tokens& data) {
  ParamStore params(test_context(), model, DType::kF64, 11);
  std::vector<Tensor> operands;
  for (const ParamEntry& entry : params.entries()) operands.push_back(entry.param->var.value());
  check_gradients(
      [&](Tape& tape, const std::vector<Var>& x) {
        for (size_t i = 0; i < x.size(); ++i) params.entries()[i].param->var = x[i];
        return std::vector<Var>{model.loss(tape, {data.tokens, data.labels, data.layout}, 0.25)};
      },
      operands, {.max_elements = 4});
}

TEST(LanguageModel, GradientsEqualFiniteDifferencesWithTiedAndUntiedEmbeddings) {
  const Tokens data(2, 9, 17);
  for (const bool tied : {false, true}) {
    LanguageModelOptions options = hybrid_options();
    options.tie_embeddings = tied;
    LanguageModel model(options);
    check_loss_gradients(model, data);
  }
}

/// Every mixer in one model, Mamba2's as its own block; the last layer has no mixer.
LanguageModelOptions mixed_options() {
  LanguageModelOptions options = hybrid_options();
  options.layers.clear();
  for (const MixerOptions& mixer : every_mixer(kSizes)) {
    const bool whole_block = std::holds_alternative<Mamba2Options>(mixer);
    options.layers.push_back({mixer, whole_block ? FeedForwardOptions() : kSwiglu});
  }
  options.layers.push_back({.mixer = {}, .feed_forward = kSwiglu});
  return options;
}

TEST(LanguageModel, LayersMayDifferAndLackAMixerOrAFeedForward) {
  const Tokens data(2, 9, 17);
  LanguageModelOptions options = mixed_options();
  LanguageModel model(options);
  std::set<std::string> parts;
  model.visit("", [&](const std::string& name, Param&) {
    if (name.starts_with("model.layers.")) parts.insert(name.substr(13, name.find('.', 15) - 13));
  });
  for (size_t i = 0; i < options.layers.size(); ++i) {
    const bool mixes = options.layers[i].mixer.index() > 0,
               feeds = options.layers[i].feed_forward.index() > 0;
    for (const char* part : {"attn_norm", "attn"})
      EXPECT_EQ(parts.count(fmt::format("{}.{}", i, part)), mixes);
    for (const char* part : {"mlp_norm", "mlp"}) EXPECT_EQ(parts.count(fmt::format("{}.{}", i, part)), feeds);
  }
  check_loss_gradients(model, data);

  const Trained plain = run(options, DType::kF64, data);
  options.activation_checkpointing = true;
  const Trained checkpointed = run(options, DType::kF64, data);
  EXPECT_EQ(plain.loss, checkpointed.loss);
  expect_bitwise_equal(plain.grads, checkpointed.grads);
}

TEST(LanguageModel, ALayerIsTheSameAsItsMixerAndItsFeedForwardAsTwoLayers) {
  Context& ctx = test_context();
  const Tokens data(2, 9, 17);
  LanguageModelOptions options = hybrid_options("L", "gated_delta_net", 1);
  LanguageModel whole(options);
  const LayerOptions layer = options.layers[0];
  options.layers = {{layer.mixer, {}}, {{}, layer.feed_forward}};
  LanguageModel halves(options);
  const ParamStore expected(ctx, whole, DType::kF64, 11), params(ctx, halves, DType::kF64, 12);
  ASSERT_EQ(params.entries().size(), expected.entries().size());
  for (size_t i = 0; i < params.entries().size(); ++i)
    params.entries()[i].param->var.value().copy_from(expected.entries()[i].param->var.value());
  const auto train = [&](const LanguageModel& model) {
    Tape tape(ctx);
    const Var loss = model.loss(tape, {data.tokens, data.labels, data.layout}, 0.25);
    tape.backward(loss);
    return to_doubles(loss.value())[0];
  };
  EXPECT_EQ(train(halves), train(whole));
  expect_bitwise_equal(gradients_of(params), gradients_of(expected));
}

TEST(LanguageModel, RefusesALayerOfNothingAndOptionsThatAreLeftOut) {
  const auto refused = [](const LayerOptions& layer) -> std::string {
    LanguageModelOptions options = hybrid_options();
    options.layers[1] = layer;
    try {
      LanguageModel model(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_NE(refused({}).find("layer 1 has neither a mixer nor a feed-forward"), std::string::npos);
  for (const MixerOptions& mixer : every_mixer({}))
    EXPECT_NE(refused({.mixer = mixer}).find(fmt::format("{}.num_heads is 0", name_of(mixer))),
              std::string::npos);
  EXPECT_NE(refused({.feed_forward = SwigluOptions{}}).find("swiglu.intermediate is 0"), std::string::npos);
}

TEST(LanguageModel, AnUntrainedModelIsAsGoodAsGuessing) {
  LanguageModelOptions options = hybrid_options();
  options.shared.linear.init_stddev = 1e-4;
  const Tokens data(2, 9, 17);
  int64_t targets = 0;
  for (const int32_t label : data.labels) targets += label != -100;
  EXPECT_NEAR(run(options, DType::kF64, data).loss / 0.25 / double(targets), std::log(17.0), 1e-2);
}

TEST(LanguageModel, LogitsAfterAPromptDoNotDependOnHowItIsFed) {
  Context& ctx = test_context();
  for (const LanguageModelOptions& options : {hybrid_options(), mixed_options()}) {
    LanguageModel model(options);
    ParamStore params(ctx, model, DType::kF64, 11, ParamStore::Gradients::kNo);
    const std::vector<int32_t> prompt{3, 1, 4, 1, 5, 9, 2, 6, 5};
    GenerationState at_once, one_by_one;
    const Tensor expected = model.next_logits(ctx, prompt, at_once);
    Tensor got;
    for (const int32_t token : prompt) got = model.next_logits(ctx, {token}, one_by_one);
    EXPECT_TRUE(near(got, expected, kTolerance64.value));
    EXPECT_EQ(one_by_one.position, int64_t(prompt.size()));
  }
}

TEST(LanguageModel, InitialWeightsDependOnSeedAndNameAlone) {
  Context& ctx = test_context();
  LanguageModel small(hybrid_options());
  LanguageModel large(hybrid_options("LN", "gated_delta_net", 8));
  const ParamStore a(ctx, small, DType::kF64, 5), b(ctx, large, DType::kF64, 5),
      c(ctx, small, DType::kF64, 6);
  const auto named = [](const ParamStore& store, const std::string& name) {
    for (const ParamEntry& entry : store.entries()) {
      if (entry.name == name) return store.slice(store.values(), entry);
    }
    SPANWISE_FAIL("no parameter {}", name);
  };
  const std::string name = "model.layers.2.attn.q_proj.weight";
  EXPECT_TRUE(bitwise_equal(named(a, name), named(b, name)));
  EXPECT_FALSE(bitwise_equal(named(a, name), named(c, name)));
  EXPECT_FALSE(bitwise_equal(named(a, name), named(a, "model.layers.0.attn.q_proj.weight")));
}

}  // namespace
}  // namespace spanwise::testing
