#pragma once
// Tensor ranks may hold the same element: replicated parameters, key/value heads shared by several ranks.
// Norms and checkpoints take each element of the whole once, from its owner: the lowest rank that holds it.

#include <vector>

#include "core/module.h"
#include "parallel/comm.h"

namespace spanwise {

struct OwnedRuns {
  std::vector<std::vector<ElementRun>> runs;  ///< by parameter
  /// Index of a parameter with elements that no rank holds; −1 if there is none. Such a model can be built
  /// and run, but has no norm and no checkpoint.
  int incomplete = -1;
};
/// Collective over the tensor axis.
OwnedRuns find_owned_runs(const std::vector<const Param*>& params, Comm& tensor);
/// In a dry world nobody says what others hold: of sharded parameters everything that this rank holds counts.
/// That is more than its own where key or value heads are shared.
OwnedRuns assumed_runs(const std::vector<const Param*>& params, const Comm& tensor);

}  // namespace spanwise
