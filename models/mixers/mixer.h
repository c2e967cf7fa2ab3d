#pragma once
// A token mixer: the sublayer of a block that lets tokens see earlier ones. A linear mixer is projections,
// gates, one kernel family and an output norm. Head counts in the options are the whole model's; a mixer
// divides them over the tensor ranks when it is made and then works on its own heads alone.
//
// Each mixer's header has its options, XOptions, with its name (kName) and its class (Layer);
// models/layer_options.h is the one list of them.

#include "core/module.h"
#include "models/layer_context.h"
#include "models/shared_options.h"

namespace spanwise {

class Mixer : public Module {
 public:
  /// x [B, T, hidden] → [B, T, hidden]. With several tensor ranks x is TensorStream::enter's result and the
  /// mixer's is this rank's heads' term of the sum that leave forms (parallel/tensor_parallel.h).
  virtual Var forward(Tape& tape, const Var& x, const LayerContext& context) const = 0;
};

}  // namespace spanwise
