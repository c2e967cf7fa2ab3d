#pragma once
// A model as the planner's formulas know it: layers with a feed-forward, of one kind of softmax attention and
// one linear mixer.

#include <vector>

#include "models/language_model.h"

namespace spanwise {

enum class MixerKind {
  kAttention,
  kLinearAttention,
  kLightning,
  kRetention,
  kMamba2,
  kDeltaNet,
  kGatedDeltaNet
};

struct FlatLinear {
  int64_t num_heads = 0, num_value_heads = 0, key_dim = 0, value_dim = 0;
  bool short_conv = false;
  int64_t conv_size = 0;
  bool output_gate = false;
  FeatureMap feature_map = FeatureMap::kIdentity;
  int64_t chunk = 0;
};

struct FlatMixers {
  int64_t hidden = 0;
  TensorGroup tensor;
  bool recompute = false;
  AttentionOptions attention;
  FlatLinear linear;
};

struct FlatModel {
  int64_t vocab_size = 0, num_layers = 0, intermediate = 0, recompute_mlp_layers = 0;
  bool shard_norms = false, activation_checkpointing = false;
  FlatMixers mixer;
  std::vector<MixerKind> kinds;  ///< of each layer
  MixerKind mixer_of(int64_t layer) const { return kinds[size_t(layer)]; }
};

/// UserError for a model with other layers.
FlatModel flat_model(const LanguageModelOptions& options);

}  // namespace spanwise
