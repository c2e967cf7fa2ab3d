#include "parallel/sharded_adamw.h"

#include <cmath>
#include <utility>

namespace spanwise {

ShardedAdamW::ShardedAdamW(ParamStore& params)
    : params_(params), first_(params.make_moment()), second_(params.make_moment()) {
  const bool shared = params.zero_stage() == 1 || params.zero_stage() == 2;
  std::vector<AdamWTensors> spans;
  std::vector<GradRange> grads;
  for (size_t b = 0; b < params.buckets().size(); ++b) {
    const ParamBucket& bucket = params.buckets()[b];
    const FlatRange updated = params.updated_range(bucket);
    const Tensor copy = params.updated_copy(int(b));
    for (const ParamSpan& span : params.layout().spans(updated)) {
      const auto part = [&](const Tensor& flat) { return params.view(flat, bucket, {span.begin, span.end}); };
      const int64_t at = span.begin - updated.begin, numel = span.end - span.begin;
      spans.push_back({.param = part(params.values()),
                       .m = part(first_),
                       .v = part(second_),
                       .copy = copy.defined() ? copy.slice_flat(at, {numel}) : Tensor(),
                       .weight_decay = span.weight_decay});
      grads.push_back({int(b), at, numel});
    }
    if (!shared && b + 1 < params.buckets().size()) continue;
    updates_.emplace_back(params.context(), std::exchange(spans, {}));
    grads_.push_back(std::exchange(grads, {}));
  }
}

std::vector<ShardedAdamW::GradRange> ShardedAdamW::find_owned() const {
  std::vector<GradRange> owned;
  const ParamLayout& layout = params_.layout();
  for (size_t b = 0; b < params_.buckets().size(); ++b) {
    const ParamBucket& bucket = params_.buckets()[b];
    const FlatRange updated = params_.updated_range(bucket);
    layout.for_each_entry(bucket, updated, [&](int e, FlatRange part) {
      const int64_t origin = params_.entries()[e].offset - updated.begin;  // element 0 seen from the slice
      FlatRange joined{0, 0};  // runs that are apart in the whole often follow each other here
      const auto add = [&] {
        if (joined.numel() > 0) owned.push_back({int(b), origin + joined.begin, joined.numel()});
      };
      for_each_run(params_.owned_runs(e), part, [&](const ElementRun& run) {
        if (run.local != joined.end) {
          add();
          joined = {run.local, run.local};
        }
        joined.end = run.local + run.count;
      });
      add();
    });
  }
  return owned;
}

std::vector<Tensor> ShardedAdamW::gradients(const std::vector<GradRange>& ranges) {
  std::vector<Tensor> grads;
  for (const GradRange& range : ranges)
    grads.push_back(params_.reduced_grad(range.bucket).slice_flat(range.begin, {range.numel}));
  return grads;
}

Tensor ShardedAdamW::squared_grad_norm() {
  if (!owned_) owned_ = find_owned();
  const Tensor sum = squared_norm(params_.context(), gradients(*owned_));
  if (params_.zero_stage() > 0) params_.data_sequence().all_reduce("grad_norm", sum).wait();
  params_.tensor().all_reduce("grad_norm", sum).wait();
  return sum;
}

double ShardedAdamW::grad_norm() {
  return std::sqrt(squared_grad_norm().to_vector<double>()[0]);
}

void ShardedAdamW::step(const AdamWHyper& hyper, const GradientClip& clip) {
  std::vector<Ticket> tickets;
  for (size_t b = 0; b < params_.buckets().size(); ++b) {
    if (b < updates_.size()) updates_[b].step(gradients(grads_[b]), hyper, clip);
    tickets.push_back(params_.share_updated_values(int(b)));
  }
  for (Ticket& ticket : tickets) ticket.wait();
  params_.drop_grads();
}

}  // namespace spanwise
