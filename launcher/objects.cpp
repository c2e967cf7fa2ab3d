#include "launcher/objects.h"

#include <algorithm>
#include <numeric>

#include "launcher/config/derived.h"

namespace spanwise {

using config::LinearConfig;
using config::ModelConfig;
using config::TrainConfig;

namespace {

FeatureMap feature_map(LinearConfig::FeatureMap map) {
  switch (map) {
    case LinearConfig::ELEMENTWISE_PRODUCT:
      return FeatureMap::kElementwiseProduct;
    case LinearConfig::ELU:
      return FeatureMap::kElu;
    case LinearConfig::RELU:
      return FeatureMap::kRelu;
    case LinearConfig::IDENTITY:
      return FeatureMap::kIdentity;
  }
  SPANWISE_FAIL("model.linear.feature_map {} is not in the table", int(map));
}

AttentionOptions attention_options(const ModelConfig& model) {
  const config::AttentionConfig& a = model.attention();
  return {.num_heads = a.num_heads(),
          .num_kv_heads = attention_kv_heads(a),
          .head_dim = attention_head_dim(model),
          .window = a.window(),
          .rope_theta = a.rope_theta(),
          .qk_norm = a.qk_norm(),
          .qkv_bias = a.qkv_bias(),
          .output_gate = a.output_gate()};
}

Mamba2Options mamba2_options(const ModelConfig& model) {
  const LinearShape shape = linear_shape(model);
  return {.num_heads = shape.value_heads,
          .num_groups = shape.key_heads,
          .state_size = shape.key_dim,
          .head_dim = shape.value_dim,
          .conv_size = model.linear().conv_size(),
          .conv_bias = model.linear().conv_bias(),
          .chunk = model.chunk_size()};
}

template <class Options>
Options delta_options(const ModelConfig& model, const LinearHeads& heads) {
  const LinearConfig& l = model.linear();
  return {.heads = heads,
          .conv_size = l.short_conv() ? l.conv_size() : 0,
          .allow_neg_eigval = l.allow_neg_eigval(),
          .output_gate = l.output_gate(),
          .chunk = model.chunk_size()};
}

MixerOptions linear_options(const ModelConfig& model) {
  const LinearConfig& l = model.linear();
  const LinearShape shape = linear_shape(model);
  const LinearHeads heads{.num_heads = shape.key_heads,
                          .num_value_heads = shape.value_heads,
                          .key_dim = shape.key_dim,
                          .value_dim = shape.value_dim};
  const int64_t chunk = model.chunk_size();
  switch (model.linear_mixer()) {
    case ModelConfig::LINEAR_ATTENTION:
      return LinearAttentionOptions{
          .heads = heads, .feature_map = feature_map(l.feature_map()), .chunk = chunk};
    case ModelConfig::LIGHTNING:
      return LightningOptions{.heads = heads, .output_gate = l.output_gate(), .chunk = chunk};
    case ModelConfig::RETENTION:
      return RetentionOptions{
          .heads = heads, .rope_theta = 10000, .output_gate = l.output_gate(), .chunk = chunk};
    case ModelConfig::MAMBA2:
      return mamba2_options(model);
    case ModelConfig::DELTA_NET:
      return delta_options<DeltaNetOptions>(model, heads);
    case ModelConfig::GATED_DELTA_NET:
      return delta_options<GatedDeltaNetOptions>(model, heads);
  }
  SPANWISE_FAIL("model.linear_mixer {} is not in the table", int(model.linear_mixer()));
}

std::vector<LayerOptions> layer_options(const ModelConfig& model, int64_t recompute_mlp_layers) {
  std::vector<LayerOptions> layers;
  const std::string& pattern = model.layer_pattern();
  for (int64_t i = 0; i < model.num_layers(); ++i) {
    const bool linear = pattern[size_t(i) % pattern.size()] == 'L';
    layers.push_back({.mixer = linear ? linear_options(model) : MixerOptions(attention_options(model)),
                      .feed_forward = SwigluOptions{.intermediate = intermediate_size(model),
                                                    .recompute = i < recompute_mlp_layers}});
  }
  return layers;
}

}  // namespace

DType compute_dtype(const config::RunConfig& config) {
  switch (config.train().precision()) {
    case TrainConfig::F64:
      return DType::kF64;
    case TrainConfig::F32:
      return DType::kF32;
    case TrainConfig::BF16:
      return DType::kBF16;
  }
  SPANWISE_FAIL("train.precision {} is not in the table", int(config.train().precision()));
}

std::unique_ptr<Tokenizer> make_tokenizer(const config::TokenizerConfig& tokenizer) {
  return tokenizer.kind() == config::TokenizerConfig::BYTES ? make_byte_tokenizer()
                                                            : load_sentencepiece(tokenizer.model());
}

MeshShape mesh_shape(const config::RunConfig& config, int world_size) {
  const config::ParallelConfig& parallel = config.parallel();
  return {.data = int(data_ranks(parallel, world_size)),
          .sequence = int(parallel.sequence()),
          .tensor = int(parallel.tensor())};
}

namespace {

StateExchange state_exchange(config::StateExchange::Kind kind) {
  switch (kind) {
    case config::StateExchange::AUTO:
      return StateExchange::kAuto;
    case config::StateExchange::ALL_GATHER:
      return StateExchange::kAllGather;
    case config::StateExchange::CHAIN:
      return StateExchange::kChain;
    case config::StateExchange::HEAD_SPLIT:
      return StateExchange::kHeadSplit;
    case config::StateExchange::TWO_LEVEL:
      return StateExchange::kTwoLevel;
  }
  SPANWISE_FAIL("parallel.exchange {} is not in the table", int(kind));
}

AttentionExchange attention_exchange(config::AttentionExchange::Kind kind) {
  switch (kind) {
    case config::AttentionExchange::ALL_GATHER:
      return AttentionExchange::kAllGather;
    case config::AttentionExchange::RING:
      return AttentionExchange::kRing;
    case config::AttentionExchange::ULYSSES:
      return AttentionExchange::kUlysses;
  }
  SPANWISE_FAIL("parallel.attention {} is not in the table", int(kind));
}

}  // namespace

int ranks_per_node(const config::ParallelConfig& parallel, const std::vector<int>& machines) {
  if (parallel.ranks_per_node() > 0) return int(parallel.ranks_per_node());
  std::vector<int64_t> runs;
  for (size_t rank = 0; rank < machines.size(); ++rank) {
    if (rank == 0 || machines[rank] != machines[rank - 1]) runs.push_back(0);
    ++runs.back();
  }
  int64_t size = 0;
  for (const int64_t run : runs) size = std::gcd(size, run);
  const bool alone = size == 1 && machines.size() > runs.size();
  if (alone && parallel.exchange() == config::StateExchange::TWO_LEVEL) {
    fail_user(
        "parallel.exchange is TWO_LEVEL, but the sequence ranks lie on their machines as {}, which have no "
        "common node size; start as many on every machine, set parallel.ranks_per_node, or take another "
        "exchange.",
        fmt::join(runs, " + "));
  }
  return int(size);
}

SequenceOptions sequence_options(const config::RunConfig& config, const Mesh& mesh) {
  const config::ParallelConfig& parallel = config.parallel();
  return {.partition = parallel.partition() == config::ParallelConfig::ZIGZAG ? Partition::kZigzag
                                                                              : Partition::kContiguous,
          .parallel = {.exchange = state_exchange(parallel.exchange()),
                       .attention = attention_exchange(parallel.attention()),
                       .ranks_per_node = ranks_per_node(parallel, mesh.sequence().machines())}};
}

ParamStoreOptions param_store_options(const config::RunConfig& config, const LanguageModel& model) {
  return {.dtype = compute_dtype(config),
          .seed = init_seed(config),
          .zero_stage = int(config.parallel().zero_stage()),
          .parts = model.parts()};
}

LanguageModelOptions language_model_options(const config::RunConfig& config, int64_t vocab_size,
                                            const Mesh& mesh) {
  const ModelConfig& model = config.model();
  return {.vocab_size = model.vocab_size() > 0 ? model.vocab_size() : vocab_size,
          .tie_embeddings = model.tie_embeddings(),
          .layers = layer_options(model, config.train().recompute_mlp_layers()),
          .shared = {.hidden = model.hidden_size(),
                     .norm_eps = model.norm_eps(),
                     .linear = {.init_stddev = model.initializer_range()},
                     .tensor = {mesh.tensor().size() > 1 ? &mesh.tensor() : nullptr},
                     .recompute_mixers = config.train().recompute_mixers()},
          .loss_chunk_rows = config.train().loss_chunk_tokens(),
          .shard_norms = config.parallel().shard_norms(),
          .activation_checkpointing = config.train().activation_checkpointing()};
}

namespace {

ScheduleKind schedule_kind(config::OptimizerConfig::Schedule schedule) {
  switch (schedule) {
    case config::OptimizerConfig::CONSTANT:
      return ScheduleKind::kConstant;
    case config::OptimizerConfig::COSINE:
      return ScheduleKind::kCosine;
    case config::OptimizerConfig::WSD:
      return ScheduleKind::kWsd;
  }
  SPANWISE_FAIL("optimizer.schedule {} is not in the table", int(schedule));
}

}  // namespace

Schedule schedule_of(const config::RunConfig& config) {
  const config::OptimizerConfig& o = config.optimizer();
  const Schedule schedule{
      .kind = schedule_kind(o.schedule()),
      .peak = o.learning_rate(),
      .min_ratio = o.min_learning_rate_ratio(),
      .warmup_steps = o.warmup_steps(),
      // A run cut short within the warm-up ends while the rate still rises.
      .total_steps = std::max(schedule_steps(config), o.warmup_steps() + decay_steps(config)),
      .decay_steps = decay_steps(config)};
  validate(schedule);
  return schedule;
}

LoaderOptions loader_options(const config::RunConfig& config, int64_t vocab_size) {
  LoaderOptions options{.sequence_length = config.train().sequence_length(),
                        .global_batch = config.train().global_batch(),
                        .vocab_size = vocab_size,
                        .seed = data_seed(config)};
  for (const config::DatasetConfig& dataset : config.data().train()) {
    options.datasets.push_back({.prefix = dataset.path(), .weight = dataset.weight()});
  }
  return options;
}

}  // namespace spanwise
