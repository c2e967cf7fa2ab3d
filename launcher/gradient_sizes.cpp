#include "launcher/gradient_sizes.h"

#include <algorithm>
#include <functional>

#include "parallel/gradient_reducer.h"

namespace spanwise {

GradientSizes::GradientSizes(const ParamLayout& params, const LanguageModel& model, DType dtype,
                             int zero_stage)
    : sharded_(zero_stage >= 2) {
  constexpr int kAfterBackward = -1;
  const std::vector<std::string> parts = model.parts();
  const bool tied = model.options().tie_embeddings;
  for (const bool partial : {false, true}) {
    for (int b = int(params.buckets().size()) - 1; b >= 0; --b) {
      const ParamBucket& bucket = params.buckets()[b];
      if (bucket.tensor_partial != partial) continue;
      const auto bytes = [&](FlatRange range) {
        return range.numel() * int64_t(size_of(accumulation_dtype(dtype)));
      };
      Bucket sizes{bytes(bucket.range), bytes(params.own_slice(bucket)), 0, int(parts.size())};
      for (const int e : bucket.entries) {
        const int part = part_of(parts, params.entries()[e].name);
        sizes.first = std::max(sizes.first, tied && part == 0 ? int(parts.size()) : part);
        sizes.last = std::min(sizes.last, part);
      }
      if (partial) sizes.last = kAfterBackward;
      buckets_.push_back(sizes);
    }
  }
}

int64_t GradientSizes::during(int part) const {
  int64_t bytes = 0;
  std::vector<int64_t> before, now;  // whole buckets that are complete before this backward, and in it
  for (const Bucket& bucket : buckets_) {
    if (bucket.first < part) continue;
    if (!sharded_ || bucket.last < part) {
      bytes += bucket.bytes;
      continue;
    }
    bytes += bucket.slice_bytes;
    (bucket.last > part ? before : now).push_back(bucket.bytes);
  }
  constexpr size_t kInFlight = GradientReducer::kMaxInFlightSharded;
  const size_t on_their_way = std::min(before.size(), kInFlight);
  now.insert(now.end(), before.end() - int64_t(on_their_way), before.end());
  std::sort(now.begin(), now.end(), std::greater<>());
  for (size_t i = 0; i < std::min(now.size(), kInFlight + 1); ++i) bytes += now[i];
  return bytes;
}

int64_t GradientSizes::whole() const {
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += bucket.bytes;
  return bytes;
}

int64_t GradientSizes::at_update() const {
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += sharded_ ? bucket.slice_bytes : bucket.bytes;
  return bytes;
}

}  // namespace spanwise
