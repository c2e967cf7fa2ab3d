#pragma once
// A token mixer: the sublayer of a block that lets tokens see earlier ones. A linear mixer is projections,
// gates, one kernel family and an output norm. Head counts in the options are the whole model's; a mixer
// divides them over the tensor ranks when it is made and then works on its own heads alone.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/module.h"
#include "models/mixer_context.h"
#include "parallel/tensor_parallel.h"

namespace spanwise {

class Mixer : public Module {
 public:
  /// x [B, T, hidden] → [B, T, hidden]. With several tensor ranks x is TensorStream::enter's result and the
  /// mixer's is this rank's heads' term of the sum that leave forms (parallel/tensor_parallel.h).
  virtual Var forward(Tape& tape, const Var& x, const MixerContext& context) const = 0;
};

enum class MixerKind {
  kAttention,
  kLinearAttention,
  kLightning,
  kRetention,
  kMamba2,
  kDeltaNet,
  kGatedDeltaNet
};

enum class FeatureMap { kElementwiseProduct, kElu, kRelu, kIdentity };

/// Softmax attention (models/mixers/attention.h).
struct AttentionOptions {
  int64_t num_heads = 8;
  int64_t num_kv_heads = 8;
  int64_t head_dim = 64;
  int64_t window = 0;  ///< keys a query sees, itself included; 0 = all
  double rope_theta = 10000;
  bool qk_norm = false;
  bool qkv_bias = false;
  bool output_gate = false;
};

/// Every linear mixer; each header says which fields it reads.
struct LinearMixerOptions {
  int64_t num_heads = 4;        ///< query and key heads
  int64_t num_value_heads = 4;  ///< a multiple of num_heads
  int64_t key_dim = 64;         ///< K per head (Mamba2: the state size N)
  int64_t value_dim = 64;       ///< V per head (Mamba2: P)
  bool short_conv = true;
  int64_t conv_size = 4;
  bool conv_bias = false;
  bool allow_neg_eigval = false;  ///< β in (0, 2) instead of (0, 1)
  bool output_gate = true;
  FeatureMap feature_map = FeatureMap::kElementwiseProduct;
  double rope_theta = 10000;
  int64_t chunk = 64;
};

struct MixerOptions {
  int64_t hidden = 512;
  int64_t layer = 0, num_layers = 1;  ///< for depth-dependent decays
  double norm_eps = 1e-6;
  double init_stddev = 0.02;
  AttentionOptions attention;
  LinearMixerOptions linear;
  TensorGroup tensor;      ///< the ranks that divide the heads
  bool recompute = false;  ///< linear mixers run their family's forward again in backward
};

std::unique_ptr<Mixer> make_mixer(MixerKind kind, const MixerOptions& options);

/// All kinds with their names, for tables and error messages: {"gated_deltanet", MixerKind::kGatedDeltaNet},
/// …
struct MixerName {
  std::string_view name;
  MixerKind kind;
};
const std::vector<MixerName>& mixer_names();

}  // namespace spanwise
