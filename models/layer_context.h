#pragma once
// What a mixer or a feed-forward knows about the tokens it is given, beside the tokens.

#include <vector>

#include "core/sequence_layout.h"
#include "core/tensor.h"
#include "parallel/sequence_parallel.h"

namespace spanwise {

/// What one mixer remembers between calls when generating: constant in size for linear mixers, growing with
/// the tokens for softmax attention. Empty before the first call.
struct MixerState {
  Tensor recurrent;          ///< [B, HV, K, V]
  std::vector<Tensor> conv;  ///< one [B, W − 1, C] per short convolution
  Tensor keys, values;  ///< [capacity, HKV, d]; the first `length` rows are valid (softmax attention, B = 1)
  int64_t length = 0;   ///< rows of keys and values

  size_t bytes() const;
};

struct LayerContext {
  const SequenceLayout& layout;
  /// Generation: goes on from this state and updates it (inference only); T = 1 is the single-token step.
  MixerState* state = nullptr;
  /// The rows are spans of longer ones that other ranks hold parts of; null: they are whole.
  const SequenceParallel* sequence = nullptr;

  /// The exchange of span states, or null. Error if there is a state as well: generation takes whole rows.
  SpanExchange* exchange() const {
    check();
    return sequence ? &sequence->spans() : nullptr;
  }
  void check() const {
    SPANWISE_CHECK(!state || !sequence, "generation goes on from a state and takes whole rows, not spans");
  }
};

}  // namespace spanwise
