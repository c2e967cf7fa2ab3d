#pragma once
// Every mixer there is, with sizes for tests: a mixer that is added to MixerOptions and not here does not
// compile.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/layer_options.h"

namespace spanwise::testing {

struct MixerSizes {
  AttentionOptions attention;
  LinearHeads heads;  ///< Mamba2: num_value_heads heads in num_heads groups
  bool short_conv = true, conv_bias = true, output_gate = true, allow_neg_eigval = false;
  FeatureMap feature_map = FeatureMap::kElementwiseProduct;
  int64_t chunk = 4;
};

constexpr double kTestRopeTheta = 10000;

inline void take(const MixerSizes& s, AttentionOptions& o) {
  o = s.attention;
  o.rope_theta = kTestRopeTheta;
}
inline void take(const MixerSizes& s, LinearAttentionOptions& o) {
  o = {.heads = s.heads, .feature_map = s.feature_map, .chunk = s.chunk};
}
inline void take(const MixerSizes& s, LightningOptions& o) {
  o = {.heads = s.heads, .output_gate = s.output_gate, .chunk = s.chunk};
}
inline void take(const MixerSizes& s, RetentionOptions& o) {
  o = {.heads = s.heads, .rope_theta = kTestRopeTheta, .output_gate = s.output_gate, .chunk = s.chunk};
}
inline void take(const MixerSizes& s, Mamba2Options& o) {
  o = {.num_heads = s.heads.num_value_heads,
       .num_groups = s.heads.num_heads,
       .state_size = s.heads.key_dim,
       .head_dim = s.heads.value_dim,
       .conv_size = 4,
       .conv_bias = s.conv_bias,
       .chunk = s.chunk};
}
inline void take(const MixerSizes& s, DeltaNetOptions& o) {
  o = {.heads = s.heads,
       .conv_size = s.short_conv ? 4 : 0,
       .allow_neg_eigval = s.allow_neg_eigval,
       .output_gate = s.output_gate,
       .chunk = s.chunk};
}
inline void take(const MixerSizes& s, GatedDeltaNetOptions& o) {
  o = {.heads = s.heads,
       .conv_size = s.short_conv ? 4 : 0,
       .allow_neg_eigval = s.allow_neg_eigval,
       .output_gate = s.output_gate,
       .chunk = s.chunk};
}

/// In the order of MixerOptions.
inline std::vector<MixerOptions> every_mixer(const MixerSizes& sizes) {
  std::vector<MixerOptions> mixers;
  const auto add = [&]<size_t... I>(std::index_sequence<I...>) {
    const auto make = [&](auto options) {
      take(sizes, options);
      mixers.push_back(options);
    };
    (make(std::variant_alternative_t<I + 1, MixerOptions>()), ...);
  };
  add(std::make_index_sequence<std::variant_size_v<MixerOptions> - 1>());
  return mixers;
}

inline MixerOptions mixer_named(std::string_view name, const MixerSizes& sizes) {
  for (const MixerOptions& mixer : every_mixer(sizes)) {
    if (name_of(mixer) == name) return mixer;
  }
  SPANWISE_FAIL("there is no mixer {}", name);
}

inline std::vector<std::string> mixer_names() {
  std::vector<std::string> names;
  for (const MixerOptions& mixer : every_mixer({})) names.emplace_back(name_of(mixer));
  return names;
}

/// Layers after a pattern that is repeated over the depth: 'L' is `linear`, 'N' softmax attention.
inline std::vector<LayerOptions> layers_of(std::string_view pattern, int64_t num_layers,
                                           std::string_view linear, const MixerSizes& sizes,
                                           const FeedForwardOptions& feed_forward) {
  std::vector<LayerOptions> layers;
  for (int64_t i = 0; i < num_layers; ++i) {
    const bool is_linear = pattern[size_t(i) % pattern.size()] == 'L';
    layers.push_back({mixer_named(is_linear ? linear : "attention", sizes), feed_forward});
  }
  return layers;
}

inline bool is_attention(const MixerOptions& mixer) {
  return std::holds_alternative<AttentionOptions>(mixer);
}

}  // namespace spanwise::testing
