#include "parallel/param_layout.h"

#include <algorithm>
#include <set>

namespace spanwise {

namespace {

constexpr int64_t kAlignElems = 16;

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

ParamLayout::ParamLayout(Module& module, const ParamLayoutOptions& options) : options_(options) {
  SPANWISE_CHECK(options.num_slices >= 1 && options.slice >= 0 && options.slice < options.num_slices,
                 "slice {} of {}", options.slice, options.num_slices);
  SPANWISE_CHECK(options.bucket_elems >= 1, "a bucket of {} elements", options.bucket_elems);
  std::set<std::string> names;
  module.visit("", [&](const std::string& name, Param& param) {
    SPANWISE_CHECK(names.insert(name).second, "two parameters are called '{}'", name);
    entries_.push_back({name, &param});
  });
  fill_buckets();
  int64_t end = 0;
  for (ParamBucket& bucket : buckets_) {
    bucket.range.begin = end;
    for (const int e : bucket.entries) {
      entries_[e].offset = end;
      end += round_up(entries_[e].param->numel(), kAlignElems);
    }
    end = bucket.range.begin + round_up(end - bucket.range.begin, options.num_slices * kAlignElems);
    bucket.range.end = end;
  }
}

void ParamLayout::fill_buckets() {
  constexpr int kNone = -1;
  struct Open {
    int bucket = kNone;
    int64_t filled = 0;
  };
  Open open[2][2];  // one bucket of each kind takes parameters at a time
  for (size_t e = 0; e < entries_.size(); ++e) {
    const Param& param = *entries_[e].param;
    const bool partial = options_.tensor_parallel && param.placement.partial_gradient;
    const bool matrix = options_.separate_matrices && param.shape.num_dims() == 2;
    const int64_t elems = round_up(param.numel(), kAlignElems);
    const int part = part_of(options_.parts, entries_[e].name);
    auto& [bucket, filled] = open[partial][matrix];
    if (bucket == kNone || buckets_[bucket].part != part || filled + elems > options_.bucket_elems) {
      bucket = int(buckets_.size());
      filled = 0;
      buckets_.push_back(
          {.range = {0, 0}, .entries = {}, .part = part, .tensor_partial = partial, .matrices = matrix});
    }
    filled += elems;
    buckets_[bucket].entries.push_back(int(e));
    entries_[e].bucket = bucket;
  }
}

int part_of(const std::vector<std::string>& parts, const std::string& name) {
  if (parts.empty()) return 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (name.starts_with(parts[i])) return int(i);
  }
  SPANWISE_FAIL("parameter '{}' is in none of the model's parts {}", name, fmt::join(parts, ", "));
}

FlatRange ParamLayout::own_slice(const ParamBucket& bucket) const {
  const int64_t numel = bucket.range.numel() / num_slices();
  const int64_t begin = bucket.range.begin + options_.slice * numel;
  return {begin, begin + numel};
}

std::vector<ParamSpan> ParamLayout::spans(FlatRange range) const {
  std::vector<ParamSpan> spans;
  for (const ParamBucket& bucket : buckets_) {
    for (size_t i = 0; i < bucket.entries.size(); ++i) {
      const ParamEntry& entry = entries_[bucket.entries[i]];
      // Padding belongs to the parameter before it.
      const bool last = i + 1 == bucket.entries.size();
      const int64_t begin = std::max(entry.offset, range.begin);
      const int64_t end =
          std::min(last ? bucket.range.end : entries_[bucket.entries[i + 1]].offset, range.end);
      if (begin >= end) continue;
      const bool decay = entry.param->weight_decay;
      if (!spans.empty() && spans.back().weight_decay == decay) {
        spans.back().end = end;
      } else {
        spans.push_back({begin, end, decay});
      }
    }
  }
  return spans;
}

}  // namespace spanwise
