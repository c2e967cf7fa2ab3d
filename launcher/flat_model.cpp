#include "launcher/flat_model.h"

#include <optional>

namespace spanwise {

namespace {

struct FlatLayer {
  MixerKind kind;
  FlatLinear linear{};
};

template <class O>
FlatLinear with_heads(const O& o) {
  const LinearHeads& h = o.heads;
  return {.num_heads = h.num_heads,
          .num_value_heads = h.num_value_heads,
          .key_dim = h.key_dim,
          .value_dim = h.value_dim,
          .chunk = o.chunk};
}

template <class O>
FlatLayer delta(MixerKind kind, const O& o) {
  FlatLinear linear = with_heads(o);
  linear.short_conv = o.conv_size > 0;
  linear.conv_size = o.conv_size;
  linear.output_gate = o.output_gate;
  return {kind, linear};
}

template <class O>
FlatLayer decay(MixerKind kind, const O& o) {
  FlatLinear linear = with_heads(o);
  linear.output_gate = o.output_gate;
  return {kind, linear};
}

struct Flatten {
  std::optional<FlatLayer> operator()(std::monostate) const { return std::nullopt; }
  std::optional<FlatLayer> operator()(const AttentionOptions&) const { return {{MixerKind::kAttention}}; }
  std::optional<FlatLayer> operator()(const LinearAttentionOptions& o) const {
    FlatLinear linear = with_heads(o);
    linear.feature_map = o.feature_map;
    return {{MixerKind::kLinearAttention, linear}};
  }
  std::optional<FlatLayer> operator()(const LightningOptions& o) const {
    return decay(MixerKind::kLightning, o);
  }
  std::optional<FlatLayer> operator()(const RetentionOptions& o) const {
    return decay(MixerKind::kRetention, o);
  }
  std::optional<FlatLayer> operator()(const Mamba2Options& o) const {
    return {{MixerKind::kMamba2,
             {.num_heads = o.num_groups,
              .num_value_heads = o.num_heads,
              .key_dim = o.state_size,
              .value_dim = o.head_dim,
              .conv_size = o.conv_size,
              .chunk = o.chunk}}};
  }
  std::optional<FlatLayer> operator()(const DeltaNetOptions& o) const {
    return delta(MixerKind::kDeltaNet, o);
  }
  std::optional<FlatLayer> operator()(const GatedDeltaNetOptions& o) const {
    return delta(MixerKind::kGatedDeltaNet, o);
  }
};

}  // namespace

FlatModel flat_model(const LanguageModelOptions& options) {
  FlatModel flat{.vocab_size = options.vocab_size,
                 .num_layers = int64_t(options.layers.size()),
                 .shard_norms = options.shard_norms,
                 .activation_checkpointing = options.activation_checkpointing,
                 .mixer = {.hidden = options.shared.hidden,
                           .tensor = options.shared.tensor,
                           .recompute = options.shared.recompute_mixers}};
  std::optional<MixerKind> linear;
  for (const LayerOptions& layer : options.layers) {
    const auto* swiglu = std::get_if<SwigluOptions>(&layer.feed_forward);
    const std::optional<FlatLayer> mixer = std::visit(Flatten(), layer.mixer);
    if (!swiglu || !mixer) fail_user("a model with a layer of one part cannot be planned.");
    flat.intermediate = swiglu->intermediate;
    flat.recompute_mlp_layers += swiglu->recompute;
    flat.kinds.push_back(mixer->kind);
    if (mixer->kind == MixerKind::kAttention) {
      flat.mixer.attention = std::get<AttentionOptions>(layer.mixer);
      continue;
    }
    if (linear.value_or(mixer->kind) != mixer->kind)
      fail_user("a model with several linear mixers cannot be planned.");
    linear = mixer->kind;
    flat.mixer.linear = mixer->linear;
  }
  return flat;
}

}  // namespace spanwise
