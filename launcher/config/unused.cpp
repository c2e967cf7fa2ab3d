#include <google/protobuf/descriptor.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>

#include "launcher/config/config.h"

namespace spanwise {

namespace {

using config::DataConfig;
using config::ModelConfig;
using config::OptimizerConfig;
using config::TokenizerConfig;
using Mixer = config::ModelConfig;

struct MixerField {
  const char* name;  // in model.linear
  std::vector<ModelConfig::LinearMixer> taken_by;
};

/// Fields of model.linear that not every mixer takes.
const std::vector<MixerField>& mixer_fields() {
  static const std::vector<MixerField> fields = {
      {"num_value_heads", {Mixer::GATED_DELTA_NET}},
      {"head_dim",
       {Mixer::LINEAR_ATTENTION, Mixer::LIGHTNING, Mixer::RETENTION, Mixer::DELTA_NET,
        Mixer::GATED_DELTA_NET}},
      {"expand_v", {Mixer::LINEAR_ATTENTION, Mixer::RETENTION, Mixer::DELTA_NET, Mixer::GATED_DELTA_NET}},
      {"short_conv", {Mixer::DELTA_NET, Mixer::GATED_DELTA_NET}},
      {"conv_size", {Mixer::DELTA_NET, Mixer::GATED_DELTA_NET, Mixer::MAMBA2}},
      {"allow_neg_eigval", {Mixer::DELTA_NET, Mixer::GATED_DELTA_NET}},
      {"output_gate", {Mixer::LIGHTNING, Mixer::RETENTION, Mixer::DELTA_NET, Mixer::GATED_DELTA_NET}},
      {"feature_map", {Mixer::LINEAR_ATTENTION}},
      {"state_size", {Mixer::MAMBA2}},
      {"expand", {Mixer::MAMBA2}},
      {"num_groups", {Mixer::MAMBA2}},
      {"conv_bias", {Mixer::MAMBA2}},
  };
  return fields;
}

void unused_mixer_fields(const ModelConfig& model, std::vector<UnusedField>& unused) {
  const auto mixer = model.linear_mixer();
  for (const MixerField& field : mixer_fields()) {
    if (std::find(field.taken_by.begin(), field.taken_by.end(), mixer) != field.taken_by.end()) continue;
    std::string takers;
    for (const auto taker : field.taken_by) {
      takers += (takers.empty() ? "" : ", ") + ModelConfig::LinearMixer_Name(taker);
    }
    unused.push_back({std::string("model.linear.") + field.name,
                      fmt::format("model.linear_mixer {} does not take it (taken by {})",
                                  ModelConfig::LinearMixer_Name(mixer), takers)});
  }
  const bool has_conv_switch = mixer == Mixer::DELTA_NET || mixer == Mixer::GATED_DELTA_NET;
  if (has_conv_switch && !model.linear().short_conv()) {
    unused.push_back({"model.linear.conv_size", "model.linear.short_conv is false"});
  }
}

void unused_model_fields(const ModelConfig& model, std::vector<UnusedField>& unused) {
  const bool has_linear = model.layer_pattern().find('L') != std::string::npos;
  const bool has_softmax = model.layer_pattern().find('N') != std::string::npos;
  if (!has_linear) {
    for (const char* path : {"model.linear_mixer", "model.chunk_size", "model.linear"}) {
      unused.push_back({path, "model.layer_pattern has no L layer"});
    }
  } else {
    unused_mixer_fields(model, unused);
  }
  if (!has_softmax) unused.push_back({"model.attention", "model.layer_pattern has no N layer"});
  if (model.intermediate_size() != 0) {
    unused.push_back({"model.hidden_ratio", "model.intermediate_size gives the size"});
  }
}

}  // namespace

std::vector<UnusedField> unused_fields(const RunConfig& config) {
  std::vector<UnusedField> unused;
  unused_model_fields(config.model(), unused);
  if (config.data().tokenizer().kind() == TokenizerConfig::BYTES) {
    unused.push_back({"data.tokenizer.model", "data.tokenizer.kind is BYTES"});
  }
  if (config.parallel().exchange() != config::StateExchange::TWO_LEVEL) {
    unused.push_back({"parallel.ranks_per_node", "parallel.exchange is not TWO_LEVEL"});
  }
  const auto schedule = config.optimizer().schedule();
  const std::string reason = "optimizer.schedule is " + OptimizerConfig::Schedule_Name(schedule);
  if (schedule != OptimizerConfig::WSD) unused.push_back({"optimizer.decay_steps", reason});
  if (schedule == OptimizerConfig::CONSTANT) unused.push_back({"optimizer.min_learning_rate_ratio", reason});
  return unused;
}

}  // namespace spanwise
