#include "models/mixers/mixer.h"

#include "models/mixers/attention.h"
#include "models/mixers/gated_delta_net.h"
#include "models/mixers/lightning.h"
#include "models/mixers/linear_attention.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/retention.h"

namespace spanwise {

namespace {

struct MixerEntry {
  std::string_view name;
  MixerKind kind;
  std::unique_ptr<Mixer> (*make)(const MixerOptions&);
};

template <class M>
std::unique_ptr<Mixer> make(const MixerOptions& options) {
  return std::make_unique<M>(options);
}

template <GatedDeltaNet::Decay decay>
std::unique_ptr<Mixer> make_delta(const MixerOptions& options) {
  return std::make_unique<GatedDeltaNet>(options, decay);
}

// The one table of mixers; names as in fla's model types.
constexpr MixerEntry kMixers[] = {
    {"attention", MixerKind::kAttention, make<Attention>},
    {"linear_attn", MixerKind::kLinearAttention, make<LinearAttention>},
    {"lightning", MixerKind::kLightning, make<Lightning>},
    {"retnet", MixerKind::kRetention, make<Retention>},
    {"mamba2", MixerKind::kMamba2, make<Mamba2>},
    {"delta_net", MixerKind::kDeltaNet, make_delta<GatedDeltaNet::Decay::kNone>},
    {"gated_deltanet", MixerKind::kGatedDeltaNet, make_delta<GatedDeltaNet::Decay::kScalarGate>},
};

}  // namespace

std::unique_ptr<Mixer> make_mixer(MixerKind kind, const MixerOptions& options) {
  for (const MixerEntry& entry : kMixers) {
    if (entry.kind == kind) return entry.make(options);
  }
  SPANWISE_FAIL("mixer kind {} is not in the table", int(kind));
}

const std::vector<MixerName>& mixer_names() {
  static const std::vector<MixerName> names = [] {
    std::vector<MixerName> all;
    for (const MixerEntry& entry : kMixers) all.push_back({entry.name, entry.kind});
    return all;
  }();
  return names;
}

}  // namespace spanwise
