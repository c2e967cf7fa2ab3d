#pragma once
// Parameters that are there only while they are needed (ZeRO stage 3): a model says which of its parts it is
// about to read and which one comes next, so that this one travels meanwhile, and when it is done.

#include <utility>

#include "core/autograd.h"

namespace spanwise {

class ParamGate {
 public:
  static constexpr int kNoPart = -1;
  virtual ~ParamGate() = default;
  /// The values of a part are whole until the matching release; calls nest. `next`: the part that is acquired
  /// after it, or kNoPart. Collective: every rank acquires the same parts in the same order.
  virtual void acquire(int part, int next) = 0;
  virtual void release(int part) = 0;
};

/// A part, and those that forward reads before and after it (ParamGate::kNoPart at the ends).
struct PartInOrder {
  int before, part, after;
};

/// forward() with the part's values whole, and whole again while its backward runs. A null gate: they always
/// are. A recomputed section keeps them from its forward to its backward, which follows at once.
template <class F>
auto with_part(Tape& tape, ParamGate* gate, const PartInOrder& order, F&& forward) {
  if (!gate) return forward();
  const auto acquire_backward = [gate, order] { gate->acquire(order.part, order.before); };
  const auto release = [gate, part = order.part] { gate->release(part); };
  const bool in_backward = tape.mode() == Tape::Mode::kRecompute;
  in_backward ? acquire_backward() : gate->acquire(order.part, order.after);
  tape.on_backward(release);
  auto result = forward();
  if (in_backward) return result;
  release();
  tape.on_backward(acquire_backward);
  return result;
}

}  // namespace spanwise
