#pragma once
// A feed-forward: the sublayer of a block that works on channels. Widths in the options are the whole
// model's; a feed-forward divides them over the tensor ranks when it is made. It may look at other tokens
// (a token shift, a router's loads): it gets what a mixer gets.
//
// As with mixers, each header has its options, XOptions, with its name (kName) and its class (Layer);
// models/layer_options.h is the one list of them.

#include "core/module.h"
#include "models/layer_context.h"
#include "models/shared_options.h"

namespace spanwise {

class FeedForward : public Module {
 public:
  /// x [B, T, hidden] → [B, T, hidden]. With several tensor ranks x is TensorStream::enter's result and the
  /// feed-forward's is this rank's columns' term of the sum that leave forms (parallel/tensor_parallel.h).
  virtual Var forward(Tape& tape, const Var& x, const LayerContext& context) const = 0;
};

}  // namespace spanwise
