#include "parallel/sharded_adamw.h"

#include <cmath>

#include "core/optim/clip.h"

namespace spanwise {

ShardedAdamW::ShardedAdamW(ParamStore& params)
    : params_(params), first_(params.make_moment()), second_(params.make_moment()) {}

double ShardedAdamW::grad_norm() const {
  double sum = 0;
  const auto squared_norm_of = [&](const Tensor& x) {
    return dispatch_float(x.dtype(), [&](auto zero) {
      using T = decltype(zero);
      return squared_norm<T>(params_.context(), {x.data<T>(), size_t(x.numel())});
    });
  };
  const ParamLayout& layout = params_.layout();
  for (size_t b = 0; b < params_.buckets().size(); ++b) {
    const ParamBucket& bucket = params_.buckets()[b];
    const FlatRange updated = params_.updated_range(bucket);
    const Tensor grad = params_.reduced_grad(int(b));
    layout.for_each_entry(bucket, updated, [&](int e, FlatRange part) {
      const int64_t origin = params_.entries()[e].offset - updated.begin;  // element 0 seen from the slice
      FlatRange joined{0, 0};  // runs that are apart in the whole often follow each other here
      const auto add = [&] {
        if (joined.numel() == 0) return;
        sum += squared_norm_of(grad.slice_flat(origin + joined.begin, {joined.numel()}));
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
  std::vector<double> total{sum};
  if (params_.zero_stage() > 0) params_.data_sequence().all_reduce("grad_norm", total);
  params_.tensor().all_reduce("grad_norm", total);
  return std::sqrt(total[0]);
}

void ShardedAdamW::step(const AdamWHyper& hyper) {
  std::vector<Ticket> tickets;
  for (size_t b = 0; b < params_.buckets().size(); ++b) {
    const ParamBucket& bucket = params_.buckets()[b];
    const FlatRange updated = params_.updated_range(bucket);
    const Tensor grad = params_.reduced_grad(int(b));
    const auto part = [&](const Tensor& flat) { return params_.view(flat, bucket, updated); };
    for (const ParamSpan& span : params_.layout().spans(updated)) {
      AdamWHyper of_span = hyper;
      if (!span.weight_decay) of_span.weight_decay = 0;
      const int64_t at = span.begin - updated.begin;
      dispatch_float(grad.dtype(), [&](auto zero) {
        using T = decltype(zero);
        adamw_step<T>(params_.context(),
                      {part(params_.values()).data<T>() + at, grad.data<T>() + at,
                       part(first_).data<T>() + at, part(second_).data<T>() + at, span.end - span.begin},
                      of_span);
      });
    }
    tickets.push_back(params_.share_updated_values(int(b)));
  }
  for (Ticket& ticket : tickets) ticket.wait();
}

}  // namespace spanwise
