#pragma once
// What a layer is made of: a mixer and a feed-forward, each with its options, either of which may be absent.
// The two variants are the one list of mixers and of feed-forwards: an alternative is options that name
// themselves (kName) and their class (Layer), made from (options, shared) or (options, shared, place).

#include <memory>
#include <string_view>
#include <variant>

#include "models/feed_forward/swiglu.h"
#include "models/mixers/attention.h"
#include "models/mixers/gated_delta_net.h"
#include "models/mixers/lightning.h"
#include "models/mixers/linear_attention.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/retention.h"

namespace spanwise {

using MixerOptions = std::variant<std::monostate, AttentionOptions, LinearAttentionOptions, LightningOptions,
                                  RetentionOptions, Mamba2Options, DeltaNetOptions, GatedDeltaNetOptions>;

using FeedForwardOptions = std::variant<std::monostate, SwigluOptions>;

/// Not both absent. A layer without a feed-forward is Mamba2's own block: one norm and one residual.
struct LayerOptions {
  MixerOptions mixer;
  FeedForwardOptions feed_forward;
};

/// Null where there is none.
std::unique_ptr<Mixer> make_mixer(const MixerOptions& options, const SharedOptions& shared,
                                  const LayerPlace& place = {});
std::unique_ptr<FeedForward> make_feed_forward(const FeedForwardOptions& options, const SharedOptions& shared,
                                               const LayerPlace& place = {});

/// "gated_delta_net"; "none" where there is none.
template <class... Options>
std::string_view name_of(const std::variant<std::monostate, Options...>& options) {
  return std::visit(
      []<class O>(const O&) -> std::string_view {
        if constexpr (std::is_same_v<O, std::monostate>) {
          return "none";
        } else {
          return O::kName;
        }
      },
      options);
}

}  // namespace spanwise
