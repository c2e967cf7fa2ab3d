#include "launcher/objects.h"

#include <algorithm>
#include <numeric>

#include "launcher/config/derived.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"

namespace spanwise {

using config::ModelConfig;
using config::TrainConfig;

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

namespace {

std::vector<LayerOptions> layers_of(const config::RunConfig& config) {
  std::vector<LayerOptions> layers;
  for (const config::LayerConfig* layer : layers_in_depth(config.model())) {
    const bool recompute = int64_t(layers.size()) < config.train().recompute_mlp_layers();
    layers.push_back(layer_options(config.model(), *layer, recompute));
  }
  return layers;
}

}  // namespace

LanguageModelOptions language_model_options(const config::RunConfig& config, int64_t vocab_size,
                                            const Mesh& mesh) {
  const ModelConfig& model = config.model();
  return {.vocab_size = model.vocab_size() > 0 ? model.vocab_size() : vocab_size,
          .tie_embeddings = model.tie_embeddings(),
          .layers = layers_of(config),
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
