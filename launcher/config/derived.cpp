#include "launcher/config/derived.h"

#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/ops/linear_cross_entropy.h"
#include "launcher/config/config.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"
#include "launcher/config/values.h"
#include "launcher/runtime.h"

namespace spanwise {

using config::ModelConfig;
using config::RunConfig;

int64_t data_ranks(const config::ParallelConfig& parallel, int world_size) {
  return parallel.data() > 0 ? parallel.data() : world_size / (parallel.sequence() * parallel.tensor());
}

int64_t accumulation_passes(const RunConfig& config, int world_size) {
  return config.train().global_batch() /
         (config.train().micro_batch() * data_ranks(config.parallel(), world_size));
}

int64_t intermediate_size(const ModelConfig& model) {
  if (model.intermediate_size() > 0) return model.intermediate_size();
  // int() before rounding up, as the published models have it.
  const auto two_thirds = int64_t(model.hidden_size() * model.hidden_ratio() * 2 / 3);
  return (two_thirds + 255) / 256 * 256;
}

ModelConfig resolved_model(const ModelConfig& model, int64_t vocab_size) {
  ModelConfig whole = with_used_layers(model);
  if (model.vocab_size() == 0) whole.set_vocab_size(vocab_size);
  whole.set_intermediate_size(intermediate_size(model));
  for (config::LayerConfig& layer : *whole.mutable_layer()) {
    if (const MixerRow* row = mixer_row(layer)) row->resolve(model, layer);
  }
  return whole;
}

uint64_t init_seed(const RunConfig& config) {
  return config.run().init_seed() > 0 ? config.run().init_seed() : config.run().seed();
}

uint64_t data_seed(const RunConfig& config) {
  return config.run().data_seed() > 0 ? config.run().data_seed() : config.run().seed();
}

int64_t schedule_steps(const RunConfig& config) {
  const int64_t steps = config.optimizer().schedule_steps();
  return steps > 0 ? steps : config.train().steps();
}

int64_t decay_steps(const RunConfig& config) {
  const auto& optimizer = config.optimizer();
  if (optimizer.decay_steps() > 0) return optimizer.decay_steps();
  return std::max<int64_t>(0, schedule_steps(config) - optimizer.warmup_steps()) / 5;
}

int64_t loss_chunk_tokens(const RunConfig& config, int64_t vocabulary) {
  const int64_t tokens = config.train().loss_chunk_tokens();
  return tokens > 0 ? tokens : default_chunk_rows(compute_device(config), vocabulary);
}

std::string checkpoint_dir(const RunConfig& config) {
  return config.checkpoint().dir().empty() ? config.run().dir() + "/checkpoints" : config.checkpoint().dir();
}

namespace {

/// What differs between a model and its resolved form: sizes that are 0.
void add_derived_sizes(const ModelConfig& model, const std::set<std::string>& skip,
                       std::vector<DerivedValue>& values) {
  const std::vector<ConfigValue> given = config_values(with_used_layers(model), "model"),
                                 resolved = config_values(resolved_model(model, 0), "model");
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i].text != resolved[i].text && !skip.count(given[i].path))
      values.push_back({resolved[i].path, resolved[i].text});
  }
}

}  // namespace

std::vector<DerivedValue> derived_values(const RunConfig& config, int world_size, int threads,
                                         std::optional<int64_t> vocab_size) {
  const auto& model = config.model();
  const auto& optimizer = config.optimizer();
  std::set<std::string> skip;
  for (const UnusedField& field : unused_fields(config)) skip.insert(field.path);
  std::vector<DerivedValue> values;
  const auto add = [&](const std::string& path, bool stands_for_another, const auto& value) {
    if (stands_for_another && !skip.count(path)) values.push_back({path, fmt::format("{}", value)});
  };
  add("run.init_seed", config.run().init_seed() == 0, config.run().seed());
  add("run.data_seed", config.run().data_seed() == 0, config.run().seed());
  add("train.threads", config.train().threads() == 0, threads);
  add("parallel.data", config.parallel().data() == 0, data_ranks(config.parallel(), world_size));
  const int64_t vocabulary = model.vocab_size() > 0 ? model.vocab_size() : vocab_size.value_or(0);
  add("model.vocab_size", model.vocab_size() == 0 && vocab_size, vocabulary);
  add("train.loss_chunk_tokens", config.train().loss_chunk_tokens() == 0 && vocabulary > 0,
      loss_chunk_tokens(config, std::max<int64_t>(vocabulary, 1)));
  add_derived_sizes(model, skip, values);
  add("optimizer.schedule_steps", optimizer.schedule_steps() == 0, schedule_steps(config));
  add("optimizer.decay_steps", optimizer.decay_steps() == 0, decay_steps(config));
  add("checkpoint.dir", config.checkpoint().dir().empty(), checkpoint_dir(config));
  return values;
}

}  // namespace spanwise
