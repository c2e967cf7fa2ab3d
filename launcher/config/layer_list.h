#pragma once
// Which layers a model has: model.layer_pattern places letters over the depth, model.layer defines them, L
// and N are there without; or model.layer lists the layers themselves, none of them with a letter. Nothing
// here minds a config with problems: what is not defined is left out.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "configs/run_config.pb.h"

namespace spanwise {

/// Whether `text` is a letter, A to Z or a to z.
bool is_letter(std::string_view text);

/// What a letter stands for that the config does not define; null for all but L and N.
const config::LayerConfig* default_layer(std::string_view letter);

/// The config's definition of a letter, else its default; null if there is neither.
const config::LayerConfig* find_layer(const config::ModelConfig& model, std::string_view letter);

/// Whether model.layer is the list of the model's layers: it has an entry without a letter.
bool lists_layers(const config::ModelConfig& model);

/// Layers of the model.
int64_t num_layers(const config::ModelConfig& model);

/// "model.layer.L" or, of a list, "model.layer[3]".
std::string layer_path(const config::LayerConfig& layer, int index);

struct UsedLayer {
  std::string path;  ///< layer_path
  const config::LayerConfig* config;
};
/// Each layer that the model has some of, in the order of their first places.
std::vector<UsedLayer> used_layers(const config::ModelConfig& model);

/// The model's layers from the first to the last.
std::vector<const config::LayerConfig*> layers_in_depth(const config::ModelConfig& model);

/// The model with used_layers alone in model.layer, defaults written out.
config::ModelConfig with_used_layers(const config::ModelConfig& model);

/// "gated_delta_net", "swiglu": what is chosen; "none" if nothing is.
std::string mixer_name(const config::LayerConfig& layer);
std::string feed_forward_name(const config::LayerConfig& layer);

}  // namespace spanwise
