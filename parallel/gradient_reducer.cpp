#include "parallel/gradient_reducer.h"

#include <algorithm>

namespace spanwise {

GradientReducer::GradientReducer(ParamStore& params) : params_(params) {
  for (const bool partial : {false, true}) {
    for (int b = int(params.buckets().size()) - 1; b >= 0; --b) {
      if (params.buckets()[b].tensor_partial == partial) order_.push_back(b);
    }
    if (!partial) num_eager_ = order_.size();
  }
  for (size_t e = 0; e < params.entries().size(); ++e) {
    params.entries()[e].param->var.set_hook([this, e](const Var&) { on_complete(int(e)); });
  }
}

GradientReducer::~GradientReducer() {
  for (const ParamEntry& entry : params_.entries()) entry.param->var.set_hook(nullptr);
}

void GradientReducer::expect_last_backward() {
  SPANWISE_CHECK(!last_backward_, "the last backward of this step was announced already");
  last_backward_ = true;
  next_ = 0;
  num_overlapped_ = 0;
  complete_.assign(params_.entries().size(), 0);
  missing_.clear();
  for (const ParamBucket& bucket : params_.buckets()) missing_.push_back(int(bucket.entries.size()));
}

void GradientReducer::on_complete(int entry) {
  if (!last_backward_) return;
  SPANWISE_CHECK(!complete_[entry], "the gradient of {} changes after it was complete",
                 params_.entries()[entry].name);
  complete_[entry] = 1;
  --missing_[params_.entries()[entry].bucket];
  start_complete_buckets();
}

void GradientReducer::start_complete_buckets() {
  while (next_ < num_eager_ && missing_[order_[next_]] == 0) {
    start(order_[next_++]);
    ++num_overlapped_;
  }
}

void GradientReducer::start(int bucket) {
  const bool sharded = params_.zero_stage() >= 2;
  while (sharded && started_.size() >= kMaxInFlightSharded) join_oldest();
  const Tensor all = params_.bucket_grad(bucket);
  Comm& comm = params_.data_sequence();
  Ticket ticket = params_.zero_stage() == 0
                      ? comm.all_reduce("grad_reduce", all)
                      : comm.reduce_scatter("grad_reduce", all, params_.reduced_grad(bucket));
  started_.push_back({bucket, std::move(ticket)});
}

void GradientReducer::join_oldest() {
  started_.front().ticket.wait();
  params_.drop_bucket_grad(started_.front().bucket);
  started_.pop_front();
}

void GradientReducer::finish() {
  SPANWISE_CHECK(last_backward_, "gradients are reduced in the last backward, and none was announced");
  while (next_ < num_eager_) start(order_[next_++]);
  sum_partial_gradients();
  while (next_ < order_.size()) start(order_[next_++]);
  while (!started_.empty()) join_oldest();
  last_backward_ = false;
}

std::vector<PartialGradients> partial_gradient_groups(const ParamLayout& layout) {
  std::vector<PartialGradients> groups;
  for (size_t e = 0; e < layout.entries().size(); ++e) {
    const ParamEntry& entry = layout.entries()[e];
    if (!layout.buckets()[entry.bucket].tensor_partial) continue;
    const int64_t whole = entry.param->global_shape().numel();
    if (groups.empty() || groups.back().numel + whole > layout.bucket_elems()) groups.emplace_back();
    groups.back().entries.push_back(int(e));
    groups.back().numel += whole;
  }
  return groups;
}

void GradientReducer::sum_partial_gradients() {
  for (const PartialGradients& group : partial_gradient_groups(params_.layout()))
    sum_over_tensor(group.entries, group.numel);
}

void GradientReducer::sum_over_tensor(const std::vector<int>& group, int64_t numel) {
  const Tensor whole = Tensor::zeros(params_.context(), {numel}, params_.master_dtype());
  // Calls fn(gradient of a run, its place in `whole`).
  const auto for_each = [&](auto&& fn) {
    int64_t at = 0;
    for (const int e : group) {
      const ParamEntry& entry = params_.entries()[e];
      const int64_t begin = entry.offset - params_.buckets()[entry.bucket].range.begin;
      const Tensor grad = params_.bucket_grad(entry.bucket);
      for (const ElementRun& run : element_runs(*entry.param)) {
        fn(grad.slice_flat(begin + run.local, {run.count}), whole.slice_flat(at + run.global, {run.count}));
      }
      at += entry.param->global_shape().numel();
    }
  };
  for_each([](const Tensor& grad, const Tensor& place) { place.copy_from(grad); });
  params_.tensor().all_reduce("grad_reduce_partial", whole).wait();
  for_each([](const Tensor& grad, const Tensor& place) { grad.copy_from(place); });
}

}  // namespace spanwise
