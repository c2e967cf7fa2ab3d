#pragma once
// What every mixer and feed-forward of a model is made with, beside its own options. Option structs have no
// defaults: a field that is left out is zero, false or nothing, and a size that is zero is refused by the
// layer that needs it (require_sizes). What a run takes by default stands in configs/run_config.proto.

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "core/check.h"
#include "models/layers.h"
#include "parallel/tensor_parallel.h"

namespace spanwise {

/// The same for all layers of a model.
struct SharedOptions {
  int64_t hidden = 0;  ///< channels of the stream
  double norm_eps = 0;
  LinearStyle linear;             ///< of every linear layer
  TensorGroup tensor;             ///< the ranks that divide heads and columns
  bool recompute_mixers = false;  ///< linear mixers run their family's forward again in backward
};

/// Where a layer stands in the depth.
struct LayerPlace {
  int64_t layer = 0, num_layers = 1;
};

/// Error that names the option of `layer` whose size is not positive.
struct NamedSize {
  std::string_view name;
  int64_t size;
};
inline void require_sizes(std::string_view layer, std::initializer_list<NamedSize> sizes) {
  for (const NamedSize& s : sizes)
    SPANWISE_CHECK(s.size > 0, "{}.{} is {}, but the layer needs one", layer, s.name, s.size);
}

}  // namespace spanwise
