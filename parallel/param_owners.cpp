#include "parallel/param_owners.h"

#include <algorithm>

namespace spanwise {

namespace {

// Of a sharded parameter: how many there are along the sharded dim, and the elements of each in one row.
int64_t global_dim(const Param& param) {
  return param.placement.global[param.placement.dim];
}

int64_t inner_elems(const Param& param) {
  int64_t inner = 1;
  for (int i = param.placement.dim + 1; i < param.shape.num_dims(); ++i) inner *= param.shape[i];
  return inner;
}

// The parts of `runs` whose index along the sharded dim has owner[index] == mine.
std::vector<ElementRun> owned_part(const Param& param, const std::vector<ElementRun>& runs,
                                   const double* owner, double mine) {
  const int64_t inner = inner_elems(param), dim = global_dim(param);
  std::vector<ElementRun> owned;
  for (const ElementRun& run : runs) {
    const int64_t first = run.global / inner % dim, num = run.count / inner;
    for (int64_t begin = 0; begin < num; ++begin) {
      if (owner[first + begin] != mine) continue;
      int64_t end = begin + 1;
      while (end < num && owner[first + end] == mine) ++end;
      owned.push_back({run.local + begin * inner, run.global + begin * inner, (end - begin) * inner});
      begin = end;
    }
  }
  return owned;
}

}  // namespace

OwnedRuns find_owned_runs(const std::vector<const Param*>& params, Comm& tensor) {
  int64_t total = 0;
  for (const Param* param : params) total += param->placement.sharded() ? global_dim(*param) : 0;
  // Each holder bids; the highest bid is the lowest rank's. Zero: nobody holds it.
  const double bid = tensor.size() - tensor.rank();
  std::vector<double> bids(size_t(total), 0.0);
  auto at = bids.begin();
  for (const Param* param : params) {
    if (!param->placement.sharded()) continue;
    for (const Placement::Range& range : param->placement.ranges) {
      std::fill(at + range.begin, at + range.end, bid);
    }
    at += global_dim(*param);
  }
  tensor.all_reduce("param_owners", bids, Reduce::kMax);

  OwnedRuns owned;
  const double* owner = bids.data();
  for (size_t i = 0; i < params.size(); ++i) {
    const Param* param = params[i];
    std::vector<ElementRun> runs = element_runs(*param);
    if (param->placement.sharded()) {
      const int64_t dim = global_dim(*param);
      if (std::find(owner, owner + dim, 0) != owner + dim) owned.incomplete = int(i);
      runs = owned_part(*param, runs, owner, bid);
      owner += dim;
    } else if (tensor.rank() != 0) {
      runs.clear();
    }
    owned.runs.push_back(std::move(runs));
  }
  return owned;
}

OwnedRuns assumed_runs(const std::vector<const Param*>& params, const Comm& tensor) {
  OwnedRuns assumed;
  for (const Param* param : params) {
    const bool others = !param->placement.sharded() && tensor.rank() > 0;
    assumed.runs.push_back(others ? std::vector<ElementRun>{} : element_runs(*param));
  }
  return assumed;
}

}  // namespace spanwise
