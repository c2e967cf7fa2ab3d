#include "parallel/param_holders.h"

#include <algorithm>

#include "core/host_context.h"

namespace spanwise {

namespace {

std::vector<int64_t> whole_numbers_of(const ParamStore& params) {
  std::vector<int64_t> numbers;
  for (const ParamEntry& entry : params.entries()) {
    const FlatRange bucket = params.buckets()[entry.bucket].range;
    const std::vector<Placement::Range>& ranges = entry.param->placement.ranges;
    numbers.insert(numbers.end(), {entry.offset, bucket.begin, bucket.end, int64_t(ranges.size())});
    for (const Placement::Range& range : ranges) numbers.insert(numbers.end(), {range.begin, range.end});
  }
  return numbers;
}

/// Of one row of a sharded parameter.
struct Row {
  int64_t inner, whole;  ///< elements of one index of the sharded dim; of all of them
  int64_t local;         ///< elements of the part
};

Row row_of(const Placement& placement, const std::vector<Placement::Range>& held) {
  Row row{.inner = 1, .whole = 0, .local = 0};
  for (int i = placement.dim + 1; i < placement.global.num_dims(); ++i) row.inner *= placement.global[i];
  for (const Placement::Range& range : held) row.local += (range.end - range.begin) * row.inner;
  row.whole = placement.global[placement.dim] * row.inner;
  return row;
}

/// Calls fn(run) for the runs of `wanted`, which lie inside `held`, in the rows that `piece` touches.
template <class F>
void for_each_sharded_run(const Placement& placement, const std::vector<Placement::Range>& held,
                          const std::vector<Placement::Range>& wanted, FlatRange piece, F&& fn) {
  const Row row = row_of(placement, held);
  for (int64_t r = piece.begin / row.whole; r * row.whole < piece.end; ++r) {
    int64_t local = r * row.local;
    for (const Placement::Range& h : held) {
      for (const Placement::Range& w : wanted) {
        const int64_t begin = std::max(h.begin, w.begin), end = std::min(h.end, w.end);
        if (begin >= end) continue;
        fn(ElementRun{local + (begin - h.begin) * row.inner, r * row.whole + begin * row.inner,
                      (end - begin) * row.inner});
      }
      local += (h.end - h.begin) * row.inner;
    }
  }
}

}  // namespace

ParamHolders::ParamHolders(const ParamStore& params) : params_(params) {
  if (!params.entries().empty()) params.owned_runs(0);  // an Error if something has no owner
  exchange_parts();
  find_owned();
}

void ParamHolders::exchange_parts() {
  Comm& tensor = params_.tensor();
  std::vector<int64_t> mine = whole_numbers_of(params_);
  std::vector<double> most{double(mine.size())};
  tensor.all_reduce("param_holders", most, Reduce::kMax);
  mine.resize(size_t(most[0]), 0);
  Context& host = host_context(params_.context());
  const Tensor all = Tensor::empty(host, {int64_t(mine.size()) * tensor.size()}, DType::kI64);
  tensor.all_gather("param_holders", Tensor::from(host, {int64_t(mine.size())}, mine), all).wait();

  const std::vector<int64_t> numbers = all.to_vector<int64_t>();
  for (int t = 0; t < tensor.size(); ++t) {
    auto next = numbers.begin() + int64_t(mine.size()) * t;
    std::vector<Part>& parts = parts_.emplace_back();
    for (size_t e = 0; e < params_.entries().size(); ++e) {
      Part& part = parts.emplace_back();
      part.offset = next[0];
      part.bucket = {next[1], next[2]};
      const int64_t num_ranges = next[3];
      next += 4;
      for (int64_t i = 0; i < num_ranges; ++i, next += 2) part.held.push_back({next[0], next[1]});
    }
  }
}

void ParamHolders::find_owned() {
  for (size_t e = 0; e < params_.entries().size(); ++e) {
    const Placement& placement = params_.entries()[e].param->placement;
    if (!placement.sharded()) continue;
    std::vector<bool> taken(size_t(placement.global[placement.dim]), false);
    for (std::vector<Part>& parts : parts_) {
      for (const Placement::Range& range : parts[e].held) {
        for (int64_t i = range.begin; i < range.end; ++i) {
          if (taken[size_t(i)]) continue;
          std::vector<Placement::Range>& owned = parts[e].owned;
          const bool goes_on = !owned.empty() && owned.back().end == i && i > range.begin;
          if (!goes_on) owned.push_back({i, i});
          owned.back().end = i + 1;
          taken[size_t(i)] = true;
        }
      }
    }
  }
}

bool ParamHolders::sliced(const Tensor& flat) const {
  return num_positions() > 1 && flat.numel() != params_.layout().numel();
}

// Slices are of equal size in every layout (ParamLayout::own_slice).
FlatRange ParamHolders::stored(const Part& part, bool sliced, int position) const {
  const int64_t slice = part.bucket.numel() / num_positions();
  if (!sliced) return {part.bucket.begin - part.offset, part.bucket.end - part.offset};
  const int64_t begin = part.bucket.begin + position * slice;
  return {begin - part.offset, begin + slice - part.offset};
}

std::vector<ElementRun> ParamHolders::runs(int entry, FlatRange piece, const Tensor& flat, int position,
                                           int tensor, HolderRuns which) const {
  const Part& part = parts_[size_t(tensor)][size_t(entry)];
  const Param& param = *params_.entries()[entry].param;
  const FlatRange kept = stored(part, sliced(flat), position);
  std::vector<ElementRun> found;
  const auto add = [&](const ElementRun& run) {
    const int64_t skip = std::max({kept.begin - run.local, piece.begin - run.global, int64_t{0}});
    const int64_t count = std::min({run.count, kept.end - run.local, piece.end - run.global}) - skip;
    if (count > 0) found.push_back({run.local + skip, run.global + skip - piece.begin, count});
  };
  const bool owned = which == HolderRuns::kOwned;
  if (param.placement.sharded()) {
    for_each_sharded_run(param.placement, part.held, owned ? part.owned : part.held, piece, add);
  } else if (!owned || tensor == 0) {
    add({0, 0, param.numel()});
  }
  return found;
}

}  // namespace spanwise
