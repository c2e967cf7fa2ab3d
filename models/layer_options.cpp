#include "models/layer_options.h"

#include <type_traits>

namespace spanwise {

namespace {

template <class Interface, class Variant>
std::unique_ptr<Interface> make(const Variant& options, const SharedOptions& shared,
                                const LayerPlace& place) {
  return std::visit(
      [&]<class O>(const O& own) -> std::unique_ptr<Interface> {
        if constexpr (std::is_same_v<O, std::monostate>) {
          return nullptr;
        } else if constexpr (std::is_constructible_v<typename O::Layer, const O&, const SharedOptions&,
                                                     const LayerPlace&>) {
          return std::make_unique<typename O::Layer>(own, shared, place);
        } else {
          return std::make_unique<typename O::Layer>(own, shared);
        }
      },
      options);
}

}  // namespace

std::unique_ptr<Mixer> make_mixer(const MixerOptions& options, const SharedOptions& shared,
                                  const LayerPlace& place) {
  return make<Mixer>(options, shared, place);
}

std::unique_ptr<FeedForward> make_feed_forward(const FeedForwardOptions& options, const SharedOptions& shared,
                                               const LayerPlace& place) {
  return make<FeedForward>(options, shared, place);
}

}  // namespace spanwise
