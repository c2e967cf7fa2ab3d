#pragma once
// One rank's part of a dimension that several ranks divide, for the few ops that reduce along it: norms over
// all heads, the softmax over a vocabulary. The core knows this interface, not the ranks behind it.

#include <functional>

#include "core/autograd.h"

namespace spanwise {

/// This rank's operands hold elements [begin, begin + their size) of `whole`.
struct DimPart {
  int64_t begin = 0;
  int64_t whole = 0;  ///< 0: nothing is divided, the operands hold the dimension
  /// Replace each element by its sum or maximum over the parts, bitwise equal on every rank. All ranks call
  /// them in the same order.
  std::function<void(const Tensor&)> sum{}, max{};

  bool divided() const { return whole > 0; }
};

/// `part` for an op's forward: its sums are received once (Tape::once), not again when a checkpointed section
/// is recomputed. Not for backward: it refers to the tape.
DimPart reduced_once(Tape& tape, const DimPart& part);

}  // namespace spanwise
