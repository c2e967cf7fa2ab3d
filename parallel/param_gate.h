#pragma once
// Parameters that are there only while they are needed (ZeRO stage 3): a model says which of its parts it is
// about to read and when it is done.

#include <utility>

#include "core/autograd.h"

namespace spanwise {

class ParamGate {
 public:
  virtual ~ParamGate() = default;
  /// The values of a part are whole until the matching release; calls nest. Collective: every rank acquires
  /// the same parts in the same order.
  virtual void acquire(int part) = 0;
  virtual void release(int part) = 0;
};

/// forward() with the part's values whole, and whole again while its backward runs. A null gate: they always
/// are. A recomputed segment keeps them from its forward to its backward, which follows at once.
template <class F>
auto with_part(Tape& tape, ParamGate* gate, int part, F&& forward) {
  if (!gate) return forward();
  const auto acquire = [gate, part] { gate->acquire(part); };
  const auto release = [gate, part] { gate->release(part); };
  acquire();
  tape.on_backward(release);
  auto result = forward();
  if (tape.mode() == Tape::Mode::kRecompute) return result;
  release();
  tape.on_backward(acquire);
  return result;
}

}  // namespace spanwise
