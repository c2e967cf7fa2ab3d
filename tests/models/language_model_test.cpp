#include "models/language_model.h"

#include <cmath>

#include "parallel/param_store.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

LanguageModelOptions hybrid_options() {
  LanguageModelOptions options{.vocab_size = 17, .num_layers = 4, .intermediate = 16, .layer_pattern = "LN"};
  options.mixer.hidden = 12;
  options.mixer.init_stddev = 0.3;
  options.mixer.attention = {.num_heads = 2, .num_kv_heads = 1, .head_dim = 6};
  options.mixer.linear = {.num_heads = 2, .num_value_heads = 2, .key_dim = 4, .value_dim = 6, .chunk = 4};
  options.loss_chunk_rows = 5;
  return options;
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

TEST(LanguageModel, RecomputingMixersAndMlpsIsBitwiseEqual) {
  const Tokens data(2, 9, 17);
  for (const MixerName& mixer : mixer_names()) {
    LanguageModelOptions options = hybrid_options();
    options.linear_mixer = mixer.kind;
    const Trained plain = run(options, DType::kF32, data);
    options.mixer.recompute = true;
    options.recompute_mlp_layers = 3;
    const Trained recomputed = run(options, DType::kF32, data);
    EXPECT_EQ(plain.loss, recomputed.loss) << mixer.name;
    SCOPED_TRACE(mixer.name);
    expect_bitwise_equal(plain.grads, recomputed.grads);
  }
}

TEST(LanguageModel, RecomputingTakesLessMemory) {
  const Tokens data(2, 256, 17);
  const auto peak = [&](bool mixers, int64_t mlps) {
    LanguageModelOptions options = hybrid_options();
    options.layer_pattern = "L";
    options.linear_mixer = MixerKind::kGatedDeltaNet;
    options.mixer.recompute = mixers;
    options.recompute_mlp_layers = mlps;
    test_context().reset_peak();
    run(options, DType::kF32, data);
    return test_context().memory().peak_bytes;
  };
  const size_t plain = peak(false, 0), mixers = peak(true, 0), half = peak(true, 2), all = peak(true, 4);
  EXPECT_LT(mixers, plain);
  EXPECT_LT(half, mixers);
  EXPECT_LT(all, half);
}

TEST(LanguageModel, GradientsEqualFiniteDifferencesWithTiedAndUntiedEmbeddings) {
  const Tokens data(2, 9, 17);
  for (const bool tied : {false, true}) {
    LanguageModelOptions options = hybrid_options();
    options.tie_embeddings = tied;
    LanguageModel model(options);
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
}

TEST(LanguageModel, AnUntrainedModelIsAsGoodAsGuessing) {
  LanguageModelOptions options = hybrid_options();
  options.mixer.init_stddev = 1e-4;
  const Tokens data(2, 9, 17);
  int64_t targets = 0;
  for (const int32_t label : data.labels) targets += label != -100;
  EXPECT_NEAR(run(options, DType::kF64, data).loss / 0.25 / double(targets), std::log(17.0), 1e-2);
}

TEST(LanguageModel, LogitsAfterAPromptDoNotDependOnHowItIsFed) {
  Context& ctx = test_context();
  LanguageModel model(hybrid_options());
  ParamStore params(ctx, model, DType::kF64, 11, ParamStore::Gradients::kNo);
  const std::vector<int32_t> prompt{3, 1, 4, 1, 5, 9, 2, 6, 5};
  GenerationState at_once, one_by_one;
  const Tensor expected = model.next_logits(ctx, prompt, at_once);
  Tensor got;
  for (const int32_t token : prompt) got = model.next_logits(ctx, {token}, one_by_one);
  EXPECT_TRUE(near(got, expected, kTolerance64.value));
  EXPECT_EQ(one_by_one.position, int64_t(prompt.size()));
}

TEST(LanguageModel, InitialWeightsDependOnSeedAndNameAlone) {
  Context& ctx = test_context();
  LanguageModel small(hybrid_options());
  LanguageModelOptions deeper = hybrid_options();
  deeper.num_layers = 8;
  LanguageModel large(deeper);
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
