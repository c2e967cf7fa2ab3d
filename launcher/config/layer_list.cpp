#include "launcher/config/layer_list.h"

#include <google/protobuf/descriptor.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>

namespace spanwise {

using config::LayerConfig;
using config::ModelConfig;

namespace {

LayerConfig made_default(const char* letter) {
  LayerConfig layer;
  layer.set_letter(letter);
  layer.mutable_swiglu();
  return layer;
}

std::string chosen(const LayerConfig& layer, const char* oneof) {
  const auto* choice = LayerConfig::descriptor()->FindOneofByName(oneof);
  const auto* field = layer.GetReflection()->GetOneofFieldDescriptor(layer, choice);
  return field ? field->name() : "none";
}

}  // namespace

bool is_letter(std::string_view text) {
  return text.size() == 1 && ((text[0] >= 'A' && text[0] <= 'Z') || (text[0] >= 'a' && text[0] <= 'z'));
}

const LayerConfig* default_layer(std::string_view letter) {
  static const LayerConfig linear = [] {
    LayerConfig layer = made_default("L");
    layer.mutable_gated_delta_net();
    return layer;
  }();
  static const LayerConfig softmax = [] {
    LayerConfig layer = made_default("N");
    layer.mutable_attention();
    return layer;
  }();
  return letter == "L" ? &linear : letter == "N" ? &softmax : nullptr;
}

const LayerConfig* find_layer(const ModelConfig& model, std::string_view letter) {
  for (const LayerConfig& layer : model.layer()) {
    if (layer.letter() == letter) return &layer;
  }
  return default_layer(letter);
}

bool lists_layers(const ModelConfig& model) {
  return std::any_of(model.layer().begin(), model.layer().end(),
                     [](const LayerConfig& layer) { return layer.letter().empty(); });
}

int64_t num_layers(const ModelConfig& model) {
  return lists_layers(model) ? model.layer_size() : model.num_layers();
}

std::string layer_path(const LayerConfig& layer, int index) {
  return layer.letter().empty() ? fmt::format("model.layer[{}]", index) : "model.layer." + layer.letter();
}

std::vector<UsedLayer> used_layers(const ModelConfig& model) {
  std::vector<UsedLayer> used;
  if (lists_layers(model)) {
    for (int i = 0; i < model.layer_size(); ++i)
      used.push_back({layer_path(model.layer(i), i), &model.layer(i)});
    return used;
  }
  std::string seen;
  for (const char letter : model.layer_pattern()) {
    if (seen.find(letter) != seen.npos) continue;
    seen += letter;
    if (const LayerConfig* layer = find_layer(model, {&letter, 1}))
      used.push_back({layer_path(*layer, 0), layer});
  }
  return used;
}

std::vector<const LayerConfig*> layers_in_depth(const ModelConfig& model) {
  std::vector<const LayerConfig*> layers;
  if (lists_layers(model)) {
    for (const LayerConfig& layer : model.layer()) layers.push_back(&layer);
    return layers;
  }
  std::vector<const LayerConfig*> period;
  for (const char letter : model.layer_pattern()) {
    if (const LayerConfig* layer = find_layer(model, {&letter, 1})) period.push_back(layer);
  }
  for (int64_t i = 0; i < model.num_layers() && !period.empty(); ++i)
    layers.push_back(period[size_t(i) % period.size()]);
  return layers;
}

ModelConfig with_used_layers(const ModelConfig& model) {
  ModelConfig whole = model;
  if (lists_layers(model)) return whole;
  whole.clear_layer();
  for (const UsedLayer& layer : used_layers(model)) *whole.add_layer() = *layer.config;
  return whole;
}

std::string mixer_name(const LayerConfig& layer) {
  return chosen(layer, "mixer");
}

std::string feed_forward_name(const LayerConfig& layer) {
  return chosen(layer, "feed_forward");
}

}  // namespace spanwise
