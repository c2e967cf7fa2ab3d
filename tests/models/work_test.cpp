// What a step of a model counts (core/work.h), by closed formulas.

#include "models/language_model.h"
#include "parallel/param_store.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {
namespace {

const AttentionOptions kAttention{.num_heads = 4, .num_kv_heads = 2, .head_dim = 6};
const LinearHeads kHeads{.num_heads = 2, .num_value_heads = 4, .key_dim = 4, .value_dim = 6};
constexpr int64_t kChunk = 4;

LanguageModelOptions options_of(std::string_view mixer, int64_t num_layers) {
  const MixerSizes sizes{.attention = kAttention,
                         .heads = kHeads,
                         .feature_map = FeatureMap::kElu,  // others have weights that every head shares
                         .chunk = kChunk};
  return {.vocab_size = 19,
          .layers = layers_of("L", num_layers, mixer, sizes, SwigluOptions{.intermediate = 20}),
          .shared = {.hidden = 12, .norm_eps = 1e-6, .linear = {.init_stddev = 0.3}},
          .loss_chunk_rows = 5};
}

/// Elements of the matrices that tokens are multiplied by, and of convolutions, which cost as much.
double weights_of(const ParamStore& params) {
  double elems = 0;
  for (const ParamEntry& entry : params.entries()) {
    if (entry.param->shape.num_dims() > 1 && entry.name != "model.embeddings.weight")
      elems += double(entry.param->shape.numel());
  }
  return elems;
}

struct Step {
  Work work;
  double weights;
};

Step step_of(const LanguageModelOptions& options, const SequenceLayout& layout, const ContextOptions& of) {
  Context ctx(of);
  LanguageModel model(options);
  const ParamStore params(ctx, model, DType::kF32, 1);
  const std::vector<int32_t> tokens(size_t(layout.batch() * layout.length()), 3);
  ctx.reset_work();
  Tape tape(ctx);
  tape.backward(model.loss(tape, {tokens, tokens, layout}, 1.0));
  return {ctx.work(), weights_of(params)};
}

/// On a dry Context of either device, which a real step equals.
Step step_of(const LanguageModelOptions& options, const SequenceLayout& layout) {
  const Step dry = step_of(options, layout, {.dry = true});
  const Step real = step_of(options, layout, {.num_threads = 2});
  EXPECT_EQ(dry.work.flops, real.work.flops);
  EXPECT_EQ(dry.work.recomputed_flops, real.work.recomputed_flops);
  EXPECT_EQ(dry.work.bytes, real.work.bytes);
  EXPECT_EQ(dry.work.flops, step_of(options, layout, {.device = Device::kCUDA, .dry = true}).work.flops);
  return dry;
}

/// Σ over documents of `length` tokens.
template <class F>
double over(const std::vector<int64_t>& lengths, F&& of) {
  double sum = 0;
  for (const int64_t n : lengths) sum += of(double(n));
  return sum;
}

TEST(Work, OfATransformerIsSixTimesWeightsAndTokensAndItsPairs) {
  const int64_t layers = 3, heads = kAttention.num_heads, width = kAttention.head_dim;
  const double tokens = 2 * 9;
  const SequenceLayout layout(2, 9, {0, 4, 9});
  const double pairs = over({4, 5, 9}, [](double n) { return n * (n + 1) / 2; }) * double(heads * layers);
  LanguageModelOptions options = options_of("attention", layers);
  const Step step = step_of(options, layout);
  const double scores = 2 * pairs * double(width);
  EXPECT_EQ(step.work.flops, 6 * step.weights * tokens + 3 * 2 * scores);
  EXPECT_EQ(step.work.recomputed_flops, scores);

  options.activation_checkpointing = true;  // the head is no block
  const Work checkpointed = step_of(options, layout).work;
  const double of_head = double(options.vocab_size * options.shared.hidden);
  EXPECT_EQ(checkpointed.flops, step.work.flops);
  EXPECT_EQ(checkpointed.recomputed_flops, 2 * (step.weights - of_head) * tokens + 2 * scores + scores);
}

// As the families' headers count a chunk.
TEST(Work, OfLinearMixersIsThatOfTheirWeightsAndChunks) {
  const double K = double(kHeads.key_dim), V = double(kHeads.value_dim), HV = double(kHeads.num_value_heads);
  const auto delta = [=](double n) { return 2 * n * n * (K + V) + 6 * n * K * V; };
  const auto decay = [=](double n) { return n * (n + 1) * (K + V) + 4 * n * K * V; };
  const SequenceLayout layout(2, 9, {0, 5, 9});
  const std::vector<int64_t> chunks = {4, 1, 4, 4, 4, 1};  // of documents of 5, 4 and 9 tokens
  const double tokens = 2 * 9, layers = 2;
  for (const std::string& mixer : mixer_names()) {
    if (mixer == "attention") continue;
    SCOPED_TRACE(mixer);
    const Step step = step_of(options_of(mixer, int64_t(layers)), layout);
    const bool is_delta = mixer == "delta_net" || mixer == "gated_delta_net";
    const double states = layers * HV * (is_delta ? over(chunks, delta) : over(chunks, decay));
    EXPECT_EQ(step.work.flops, 6 * step.weights * tokens + 3 * states);
  }
}

}  // namespace
}  // namespace spanwise::testing
