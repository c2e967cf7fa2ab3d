#pragma once
// Heads as blocks of channels.

#include <string_view>

#include "core/autograd.h"
#include "parallel/tensor_parallel.h"

namespace spanwise {

/// [B, T, heads·d] → [B, T, heads, d], and back.
Var split_heads(Tape& tape, const Var& x, int64_t num_heads);
Var merge_heads(Tape& tape, const Var& x);

/// The heads of a linear mixer, of the whole model.
struct LinearHeads {
  int64_t num_heads = 0;        ///< query and key heads
  int64_t num_value_heads = 0;  ///< a multiple of num_heads
  int64_t key_dim = 0;          ///< K per head
  int64_t value_dim = 0;        ///< V per head
};

/// Them over the tensor ranks.
struct HeadSplit {
  SplitDim keys, values;
  int64_t key_dim, value_dim;
  SplitDim key_channels() const { return keys.times(key_dim); }
  SplitDim value_channels() const { return values.times(value_dim); }
};
/// `mixer` names the mixer in errors. Every size must be positive.
HeadSplit split_over_ranks(const TensorGroup& tensor, const LinearHeads& heads, std::string_view mixer);

}  // namespace spanwise
