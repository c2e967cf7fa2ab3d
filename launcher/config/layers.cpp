#include "launcher/config/layers.h"

#include <cmath>

#include "launcher/config/derived.h"
#include "launcher/config/layer_list.h"

namespace spanwise {

using config::LayerConfig;
using config::ModelConfig;

namespace {

std::string field(const MixerPlace& at, const char* name) {
  return at.path + "." + name;
}

/// Whether heads split the hidden size, where `head_dim` leaves it to them.
bool check_head_dim(const MixerPlace& at, int64_t heads, int64_t head_dim, Problems& problems) {
  if (!problems.at_least(0, field(at, "head_dim"), head_dim)) return false;
  if (head_dim > 0 || at.model.hidden_size() % heads == 0) return true;
  problems.add("model.hidden_size {} is not a multiple of {} {}; change either or set head_dim",
               at.model.hidden_size(), field(at, "num_heads"), heads);
  return false;
}

void check_rotary(const MixerPlace& at, int64_t head_dim, Problems& problems) {
  if (head_dim % 2 == 0) return;
  problems.add(
      "{} has {} channels per head and rotary positions need an even number; set head_dim or num_heads",
      at.path, head_dim);
}

void check_conv_size(const MixerPlace& at, int64_t size, Problems& problems) {
  if (size < 2 || size > 4)
    problems.add("{} is {}; short convolutions of 2, 3 and 4 tokens exist", field(at, "conv_size"), size);
}

int64_t head_dim_of(const ModelConfig& model, int64_t head_dim, int64_t heads) {
  return head_dim > 0 ? head_dim : model.hidden_size() / heads;
}

// Softmax attention.

int64_t kv_heads_of(const config::AttentionConfig& c) {
  return c.num_kv_heads() > 0 ? c.num_kv_heads() : c.num_heads();
}

void check_attention(const MixerPlace& at, Problems& problems) {
  const config::AttentionConfig& c = at.layer.attention();
  problems.at_least(0, field(at, "window"), c.window());
  problems.positive(field(at, "rope_theta"), c.rope_theta());
  if (!problems.at_least(1, field(at, "num_heads"), c.num_heads(), kMostHeads)) return;
  if (problems.at_least(0, field(at, "num_kv_heads"), c.num_kv_heads(), kMostHeads) &&
      c.num_heads() % kv_heads_of(c) != 0) {
    problems.add("{} {} is not a multiple of num_kv_heads {}; set num_kv_heads: {}", field(at, "num_heads"),
                 c.num_heads(), c.num_kv_heads(), largest_divisor(c.num_heads(), c.num_kv_heads()));
  }
  if (check_head_dim(at, c.num_heads(), c.head_dim(), problems))
    check_rotary(at, head_dim_of(at.model, c.head_dim(), c.num_heads()), problems);
}

MixerHeads attention_heads(const ModelConfig& model, const LayerConfig& layer) {
  const config::AttentionConfig& c = layer.attention();
  const int64_t channels = head_dim_of(model, c.head_dim(), c.num_heads());
  return {.keys = {"num_kv_heads", kv_heads_of(c), channels},
          .values = {"num_heads", c.num_heads(), channels}};
}

MixerOptions attention_options(const ModelConfig& model, const LayerConfig& layer) {
  const config::AttentionConfig& c = layer.attention();
  return AttentionOptions{.num_heads = c.num_heads(),
                          .num_kv_heads = kv_heads_of(c),
                          .head_dim = head_dim_of(model, c.head_dim(), c.num_heads()),
                          .window = c.window(),
                          .rope_theta = c.rope_theta(),
                          .qk_norm = c.qk_norm(),
                          .qkv_bias = c.qkv_bias(),
                          .output_gate = c.output_gate()};
}

void resolve_attention(const ModelConfig& model, LayerConfig& layer) {
  config::AttentionConfig& c = *layer.mutable_attention();
  c.set_num_kv_heads(kv_heads_of(c));
  c.set_head_dim(head_dim_of(model, c.head_dim(), c.num_heads()));
}

// Linear mixers of num_heads and head_dim, and of num_value_heads, expand_v and conv_size where they have
// them.

template <class C>
constexpr bool kHasValueHeads = requires(const C& c) {
  c.num_value_heads();
};
template <class C>
constexpr bool kHasExpandV = requires(const C& c) {
  c.expand_v();
};
template <class C>
constexpr bool kHasShortConv = requires(const C& c) {
  c.short_conv();
};

template <class C>
LinearHeads linear_heads(const ModelConfig& model, const C& c) {
  const int64_t key_dim = head_dim_of(model, c.head_dim(), c.num_heads());
  LinearHeads heads{
      .num_heads = c.num_heads(), .num_value_heads = c.num_heads(), .key_dim = key_dim, .value_dim = key_dim};
  if constexpr (kHasValueHeads<C>) {
    if (c.num_value_heads() > 0) heads.num_value_heads = c.num_value_heads();
  }
  if constexpr (kHasExpandV<C>) heads.value_dim = std::llround(double(key_dim) * c.expand_v());
  return heads;
}

template <class C>
void check_value_heads(const MixerPlace& at, const C& c, Problems& problems) {
  if (!problems.at_least(0, field(at, "num_value_heads"), c.num_value_heads(), kMostHeads)) return;
  if (c.num_value_heads() % c.num_heads() == 0) return;
  problems.add("{} {} is not a multiple of num_heads {}; set num_value_heads: {}",
               field(at, "num_value_heads"), c.num_value_heads(), c.num_heads(),
               (c.num_value_heads() / c.num_heads() + 1) * c.num_heads());
}

template <class C>
void check_expand_v(const MixerPlace& at, const C& c, Problems& problems) {
  const int64_t key_dim = head_dim_of(at.model, c.head_dim(), c.num_heads());
  const double value_dim = double(key_dim) * c.expand_v();
  if (value_dim >= 1 && std::abs(value_dim - std::round(value_dim)) <= 1e-9 * value_dim) return;
  problems.add("{} {} x {} key channels per head is not a whole number of value channels; set expand_v: {}",
               field(at, "expand_v"), c.expand_v(), key_dim, std::ceil(value_dim) / double(key_dim));
}

template <class C>
void check_linear(const MixerPlace& at, const C& c, Problems& problems) {
  if constexpr (kHasShortConv<C>) check_conv_size(at, c.conv_size(), problems);
  if (!problems.at_least(1, field(at, "num_heads"), c.num_heads(), kMostHeads)) return;
  if constexpr (kHasValueHeads<C>) check_value_heads(at, c, problems);
  const bool has_key_dim = check_head_dim(at, c.num_heads(), c.head_dim(), problems);
  if (has_key_dim && std::is_same_v<C, config::RetentionConfig>)
    check_rotary(at, head_dim_of(at.model, c.head_dim(), c.num_heads()), problems);
  if constexpr (kHasExpandV<C>) {
    if (problems.factor(field(at, "expand_v"), c.expand_v()) && has_key_dim) check_expand_v(at, c, problems);
  }
}

template <class C>
int64_t conv_size_of(const C& c) {
  return c.short_conv() ? c.conv_size() : 0;
}

GatedDeltaNetOptions options_of(const config::GatedDeltaNetConfig& c, const LinearHeads& heads,
                                int64_t chunk) {
  return {.heads = heads,
          .conv_size = conv_size_of(c),
          .allow_neg_eigval = c.allow_neg_eigval(),
          .output_gate = c.output_gate(),
          .chunk = chunk};
}

DeltaNetOptions options_of(const config::DeltaNetConfig& c, const LinearHeads& heads, int64_t chunk) {
  return {.heads = heads,
          .conv_size = conv_size_of(c),
          .allow_neg_eigval = c.allow_neg_eigval(),
          .output_gate = c.output_gate(),
          .chunk = chunk};
}

LightningOptions options_of(const config::LightningConfig& c, const LinearHeads& heads, int64_t chunk) {
  return {.heads = heads, .output_gate = c.output_gate(), .chunk = chunk};
}

RetentionOptions options_of(const config::RetentionConfig& c, const LinearHeads& heads, int64_t chunk) {
  constexpr double kPublishedTheta = 10000;
  return {.heads = heads, .rope_theta = kPublishedTheta, .output_gate = c.output_gate(), .chunk = chunk};
}

FeatureMap feature_map(config::LinearAttentionConfig::FeatureMap map) {
  switch (map) {
    case config::LinearAttentionConfig::ELEMENTWISE_PRODUCT:
      return FeatureMap::kElementwiseProduct;
    case config::LinearAttentionConfig::ELU:
      return FeatureMap::kElu;
    case config::LinearAttentionConfig::RELU:
      return FeatureMap::kRelu;
    case config::LinearAttentionConfig::IDENTITY:
      return FeatureMap::kIdentity;
  }
  SPANWISE_FAIL("linear_attention.feature_map {} is not in the table", int(map));
}

LinearAttentionOptions options_of(const config::LinearAttentionConfig& c, const LinearHeads& heads,
                                  int64_t chunk) {
  return {.heads = heads, .feature_map = feature_map(c.feature_map()), .chunk = chunk};
}

/// Fills in a row for a mixer whose message `get` gives.
template <auto kGet, auto kMutable>
constexpr MixerRow linear(MixerRow row) {
  row.check = [](const MixerPlace& at, Problems& problems) {
    check_linear(at, (at.layer.*kGet)(), problems);
  };
  row.heads = [](const ModelConfig& model, const LayerConfig& layer) -> MixerHeads {
    const auto& c = (layer.*kGet)();
    const LinearHeads heads = linear_heads(model, c);
    return {.keys = {"num_heads", heads.num_heads, heads.key_dim},
            .values = {heads.num_value_heads == heads.num_heads ? "num_heads" : "num_value_heads",
                       heads.num_value_heads, heads.value_dim}};
  };
  row.options = [](const ModelConfig& model, const LayerConfig& layer) -> MixerOptions {
    const auto& c = (layer.*kGet)();
    return options_of(c, linear_heads(model, c), model.chunk_size());
  };
  row.resolve = [](const ModelConfig& model, LayerConfig& layer) {
    auto& c = *(layer.*kMutable)();
    const LinearHeads heads = linear_heads(model, c);
    c.set_head_dim(heads.key_dim);
    if constexpr (requires { c.set_num_value_heads(0); }) c.set_num_value_heads(heads.num_value_heads);
  };
  return row;
}

// Mamba2.

void check_mamba2(const MixerPlace& at, Problems& problems) {
  const config::Mamba2Config& c = at.layer.mamba2();
  check_conv_size(at, c.conv_size(), problems);
  problems.at_least(1, field(at, "state_size"), c.state_size());
  const bool has_heads = problems.at_least(1, field(at, "num_heads"), c.num_heads(), kMostHeads);
  if (problems.at_least(1, field(at, "expand"), c.expand()) && has_heads &&
      at.model.hidden_size() * c.expand() % c.num_heads() != 0) {
    problems.add("model.hidden_size {} x {} {} is not a multiple of num_heads {}; change one of them",
                 at.model.hidden_size(), field(at, "expand"), c.expand(), c.num_heads());
  }
  if (problems.at_least(1, field(at, "num_groups"), c.num_groups(), kMostHeads) && has_heads &&
      c.num_heads() % c.num_groups() != 0) {
    problems.add("{} {} is not a multiple of num_groups {}; set num_groups: {}", field(at, "num_heads"),
                 c.num_heads(), c.num_groups(), largest_divisor(c.num_heads(), c.num_groups()));
  }
}

MixerHeads mamba2_heads(const ModelConfig& model, const LayerConfig& layer) {
  const config::Mamba2Config& c = layer.mamba2();
  return {.keys = {"num_groups", c.num_groups(), c.state_size()},
          .values = {"num_heads", c.num_heads(), model.hidden_size() * c.expand() / c.num_heads()}};
}

MixerOptions mamba2_options(const ModelConfig& model, const LayerConfig& layer) {
  const config::Mamba2Config& c = layer.mamba2();
  return Mamba2Options{.num_heads = c.num_heads(),
                       .num_groups = c.num_groups(),
                       .state_size = c.state_size(),
                       .head_dim = model.hidden_size() * c.expand() / c.num_heads(),
                       .conv_size = c.conv_size(),
                       .conv_bias = c.conv_bias(),
                       .chunk = model.chunk_size()};
}

void resolve_nothing(const ModelConfig&, LayerConfig&) {}

constexpr const char* kSizedByHeads = "head_dim or num_heads";
constexpr const char* kSizedByExpandV = "head_dim or num_heads for the keys, expand_v for the values";

constexpr MixerRow kMixers[] = {
    {.mixer = LayerConfig::kAttention,
     .is_linear = false,
     .gpu_heads = gpu_limits::kAttentionHeads,
     .sized_by = kSizedByHeads,
     .check = check_attention,
     .heads = attention_heads,
     .options = attention_options,
     .resolve = resolve_attention},
    linear<&LayerConfig::gated_delta_net, &LayerConfig::mutable_gated_delta_net>(
        {.mixer = LayerConfig::kGatedDeltaNet,
         .gpu_heads = gpu_limits::kGatedDeltaHeads,
         .most_bf16_chunk = gpu_limits::kMostGatedDeltaChunk,
         .sized_by = kSizedByExpandV}),
    linear<&LayerConfig::delta_net, &LayerConfig::mutable_delta_net>(
        {.mixer = LayerConfig::kDeltaNet,
         .gpu_heads = gpu_limits::kGatedDeltaHeads,
         .most_bf16_chunk = gpu_limits::kMostGatedDeltaChunk,
         .sized_by = kSizedByExpandV}),
    {.mixer = LayerConfig::kMamba2,
     .gpu_heads = gpu_limits::kScalarDecayHeads,
     .norm_over_heads = true,
     .sized_by = "state_size for the keys, num_heads or expand for the values",
     .check = check_mamba2,
     .heads = mamba2_heads,
     .options = mamba2_options,
     .resolve = resolve_nothing},
    linear<&LayerConfig::lightning, &LayerConfig::mutable_lightning>(
        {.mixer = LayerConfig::kLightning,
         .gpu_heads = gpu_limits::kScalarDecayHeads,
         .norm_over_heads = true,
         .sized_by = kSizedByHeads}),
    linear<&LayerConfig::retention, &LayerConfig::mutable_retention>(
        {.mixer = LayerConfig::kRetention,
         .gpu_heads = gpu_limits::kScalarDecayHeads,
         .sized_by = kSizedByExpandV}),
    linear<&LayerConfig::linear_attention, &LayerConfig::mutable_linear_attention>(
        {.mixer = LayerConfig::kLinearAttention,
         .gpu_heads = gpu_limits::kScalarDecayHeads,
         .sized_by = kSizedByExpandV}),
};

FeedForwardOptions feed_forward_options(const ModelConfig& model, const LayerConfig& layer, bool recompute) {
  switch (layer.feed_forward_case()) {
    case LayerConfig::kSwiglu:
      return SwigluOptions{.intermediate = intermediate_size(model), .recompute = recompute};
    case LayerConfig::FEED_FORWARD_NOT_SET:
      return {};
  }
  SPANWISE_FAIL("feed-forward {} is not in the table", feed_forward_name(layer));
}

}  // namespace

const MixerRow* mixer_row(const LayerConfig& layer) {
  if (layer.mixer_case() == LayerConfig::MIXER_NOT_SET) return nullptr;
  for (const MixerRow& row : kMixers) {
    if (row.mixer == layer.mixer_case()) return &row;
  }
  SPANWISE_FAIL("mixer {} is not in the table", mixer_name(layer));
}

bool has_linear_mixer(const ModelConfig& model) {
  for (const UsedLayer& layer : used_layers(model)) {
    const MixerRow* row = mixer_row(*layer.config);
    if (row && row->is_linear) return true;
  }
  return false;
}

bool has_swiglu(const ModelConfig& model) {
  for (const UsedLayer& layer : used_layers(model)) {
    if (layer.config->has_swiglu()) return true;
  }
  return false;
}

LayerOptions layer_options(const ModelConfig& model, const LayerConfig& layer, bool recompute) {
  const MixerRow* row = mixer_row(layer);
  return {.mixer = row ? row->options(model, layer) : MixerOptions{},
          .feed_forward = feed_forward_options(model, layer, recompute)};
}

}  // namespace spanwise
