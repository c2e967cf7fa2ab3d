#pragma once
// What the launcher knows of each mixer, a row each: how its message becomes options, what its zeros stand
// for, what it may contradict. Checks that are not a mixer's own (division over ranks, limits of GPUs, sizes)
// read these rows, so that a new mixer has all of them.

#include <cstdint>
#include <string>

#include "configs/run_config.pb.h"
#include "core/ops/gpu_limits.h"
#include "launcher/config/problems.h"
#include "models/layer_options.h"

namespace spanwise {

/// Most heads of a mixer, which has a few numbers for each.
constexpr int64_t kMostHeads = 1'000'000;

/// A mixer's heads of one kind.
struct HeadGroup {
  const char* field;  ///< "num_heads": what gives their number
  int64_t count;
  int64_t channels;  ///< per head
};

struct MixerHeads {
  HeadGroup keys;    ///< in attention of values as well; several tensor ranks may hold the same one
  HeadGroup values;  ///< of values, in attention of queries; ranks divide them
};

/// A mixer of a config at `path`, "model.layer.L.mamba2".
struct MixerPlace {
  const config::ModelConfig& model;
  const config::LayerConfig& layer;
  std::string path;
};

struct MixerRow {
  config::LayerConfig::MixerCase mixer;
  /// Keeps a state, which chunks and sequence ranks hand on; softmax attention keeps keys and values.
  bool is_linear = true;
  gpu_limits::HeadChannels gpu_heads;
  int64_t most_bf16_chunk = 0;   ///< tokens of a chunk on a GPU in BF16; 0: any number
  bool norm_over_heads = false;  ///< a norm's row is as wide as the values of all heads of a rank
  const char* sized_by;          ///< the fields that channels per head follow from
  /// What is wrong with it, for itself and with model.hidden_size, which is in its range.
  void (*check)(const MixerPlace& at, Problems& problems) = nullptr;
  /// The others are for mixers of which check finds nothing.
  MixerHeads (*heads)(const config::ModelConfig& model, const config::LayerConfig& layer) = nullptr;
  MixerOptions (*options)(const config::ModelConfig& model, const config::LayerConfig& layer) = nullptr;
  /// Sets what zeros stand for.
  void (*resolve)(const config::ModelConfig& model, config::LayerConfig& layer) = nullptr;
};

/// Null for a layer without a mixer.
const MixerRow* mixer_row(const config::LayerConfig& layer);

/// Whether some layer of the model has a linear mixer; whether some has SwiGLU.
bool has_linear_mixer(const config::ModelConfig& model);
bool has_swiglu(const config::ModelConfig& model);

/// The layer as the model is built from it; `recompute`: of what its feed-forward can compute again.
LayerOptions layer_options(const config::ModelConfig& model, const config::LayerConfig& layer,
                           bool recompute);

}  // namespace spanwise
