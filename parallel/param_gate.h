#pragma once
// Parameters that are there only while they are needed (ZeRO stage 3): a model says which of its parts it is
// about to read and when it is done.

#include <string>
#include <vector>

namespace spanwise {

class ParamGate {
 public:
  virtual ~ParamGate() = default;
  /// The values of a part are whole until the matching release; calls nest. Collective: every rank acquires
  /// the same parts in the same order.
  virtual void acquire(int part) = 0;
  virtual void release(int part) = 0;
};

}  // namespace spanwise
