#include <google/protobuf/descriptor.h>
#include <spdlog/fmt/fmt.h>

#include "launcher/config/config.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"

namespace spanwise {

namespace {

using config::ModelConfig;
using config::OptimizerConfig;
using config::TokenizerConfig;

/// Of a mixer that has short convolutions if it is told so.
template <class C>
void unused_conv_size(const std::string& path, const C& mixer, std::vector<UnusedField>& unused) {
  if (mixer.short_conv()) return;
  unused.push_back({path + ".conv_size", path + ".short_conv is false", mixer.has_conv_size()});
}

void unused_layer_fields(const ModelConfig& model, std::vector<UnusedField>& unused) {
  for (const UsedLayer& layer : used_layers(model)) {
    if (layer.config->has_gated_delta_net())
      unused_conv_size(layer.path + ".gated_delta_net", layer.config->gated_delta_net(), unused);
    if (layer.config->has_delta_net())
      unused_conv_size(layer.path + ".delta_net", layer.config->delta_net(), unused);
  }
}

void unused_model_fields(const ModelConfig& model, std::vector<UnusedField>& unused) {
  if (lists_layers(model)) {
    const std::string reason = fmt::format("model.layer lists the {} layers", model.layer_size());
    unused.push_back({"model.layer_pattern", reason, model.has_layer_pattern()});
    unused.push_back({"model.num_layers", reason, model.has_num_layers()});
  }
  if (!has_linear_mixer(model))
    unused.push_back({"model.chunk_size", "no layer has a linear mixer", model.has_chunk_size()});
  if (!has_swiglu(model)) {
    unused.push_back({"model.intermediate_size", "no layer has swiglu", model.has_intermediate_size()});
    unused.push_back({"model.hidden_ratio", "no layer has swiglu", model.has_hidden_ratio()});
  } else if (model.intermediate_size() != 0) {
    unused.push_back(
        {"model.hidden_ratio", "model.intermediate_size gives the size", model.has_hidden_ratio()});
  }
  unused_layer_fields(model, unused);
}

}  // namespace

std::vector<UnusedField> unused_fields(const RunConfig& config) {
  std::vector<UnusedField> unused;
  unused_model_fields(config.model(), unused);
  if (config.data().tokenizer().kind() == TokenizerConfig::BYTES) {
    unused.push_back(
        {"data.tokenizer.model", "data.tokenizer.kind is BYTES", config.data().tokenizer().has_model()});
  }
  const config::ParallelConfig& parallel = config.parallel();
  if (parallel.exchange() != config::StateExchange::TWO_LEVEL) {
    unused.push_back(
        {"parallel.ranks_per_node", "parallel.exchange is not TWO_LEVEL", parallel.has_ranks_per_node()});
  }
  const config::OptimizerConfig& optimizer = config.optimizer();
  const std::string reason = "optimizer.schedule is " + OptimizerConfig::Schedule_Name(optimizer.schedule());
  if (optimizer.schedule() != OptimizerConfig::WSD)
    unused.push_back({"optimizer.decay_steps", reason, optimizer.has_decay_steps()});
  if (optimizer.schedule() == OptimizerConfig::CONSTANT) {
    unused.push_back({"optimizer.min_learning_rate_ratio", reason, optimizer.has_min_learning_rate_ratio()});
  }
  return unused;
}

std::vector<std::string> config_warnings(const RunConfig& config) {
  std::vector<std::string> warnings;
  const ModelConfig& model = config.model();
  if (lists_layers(model)) return warnings;
  for (const config::LayerConfig& layer : model.layer()) {
    if (model.layer_pattern().find(layer.letter()) != std::string::npos) continue;
    warnings.push_back(fmt::format("model.layer.{0} has no effect: model.layer_pattern \"{1}\" has no {0}",
                                   layer.letter(), model.layer_pattern()));
  }
  return warnings;
}

}  // namespace spanwise
