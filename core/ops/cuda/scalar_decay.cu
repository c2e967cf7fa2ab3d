#include "core/ops/scalar_decay.h"

#include "core/ops/cuda/linear_step.h"
#include "core/ops/cuda/scalar_decay_gates.cuh"
#include "core/shared_upload.h"

// Spans: the summary is a scan of states alone over each row's last segment; rows that continue are computed
// when their incoming state is known, for adding its part to finished outputs would move three quarters of
// the bytes again. Backward, dq of all tokens waits for no exchange.

namespace spanwise::cuda {

namespace {

/// [saved states for dg, states at cuts]: undefined where the call has none.
struct Saved {
  explicit Saved(const std::vector<Tensor>& saved) {
    if (saved.empty()) return;
    group_states = saved[0];
    cut_states = saved[1];
  }
  Tensor group_states, cut_states;
};

using UploadedGroups = SharedArray<ScanCuts::Group>;

/// One call's backward.
class Backward {
 public:
  Backward(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
           const LinearStateGradients& d)
      : ctx_(ctx), call_(call), cuts_(call), from_(from), saved_(from.saved), d_(d) {}

  void query_gradients(SegmentSet which) {
    const std::vector<ScanCuts::Group> groups = cuts_.groups(which);
    if (groups.empty()) return;
    const UploadedGroups on_device(ctx_, groups);
    const Tensor heads = per_value_head(d_.q), dots = allocate_dots(ctx_, call_, d_.log_decay.defined());
    run_state_scan(ctx_, call_, cuts_, which,
                   {.q = from_.dout,
                    .k = call_.v,
                    .v = call_.k,
                    .out = heads,
                    .time = ScanTime::kForward,
                    .read_scale = call_.scale,
                    .transposed_states = true,
                    .first_states = call_.initial_state,
                    .cut_states = saved_.cut_states,
                    .cut_states_known = true,
                    .x = dots.defined() ? call_.q : Tensor(),
                    .x_dots = dots});
    sum_heads(on_device, heads, d_.q);
    if (!dots.defined()) return;
    scan::store_query_dots<<<dim3(unsigned(on_device.size()), unsigned(ceil_div(HV(), scan::kGateWarps))),
                             scan::kGateThreads, 0, stream_of(ctx_)>>>(
        pointer<float>(dots), pointer<float>(d_.log_decay), on_device.data(), int(HV()), int(dots.dim(0)),
        num_tokens());
    check_launch("store_query_dots");
  }

  /// dk, dv, dinitial_state, and dlog_decay from what query_gradients left there.
  void key_value_gradients(SegmentSet which) {
    const std::vector<ScanCuts::Group> groups = cuts_.groups(which);
    if (groups.empty()) return;
    const UploadedGroups on_device(ctx_, groups);
    const Tensor cut_states = allocate_cut_states(ctx_, call_, cuts_);
    Tensor state_dots;
    const Tensor heads = per_value_head(d_.k), dots = allocate_dots(ctx_, call_, d_.log_decay.defined());
    if (dots.defined()) state_dots = allocate_state_dots(ctx_, call_, cuts_);
    run_state_scan(ctx_, call_, cuts_, which,
                   {.q = call_.k,
                    .k = call_.q,
                    .v = from_.dout,
                    .out = d_.v,
                    .time = ScanTime::kBackward,
                    .write_scale = call_.scale,
                    .first_states = from_.dfinal_state,
                    .last_states = call_.initial_state.defined() ? d_.initial_state : Tensor(),
                    .cut_states = cut_states,
                    .saved_states = dots.defined() ? saved_.group_states : Tensor(),
                    .saved_dots = state_dots});
    run_state_scan(ctx_, call_, cuts_, which,
                   {.q = call_.v,
                    .k = from_.dout,
                    .v = call_.q,
                    .out = heads,
                    .time = ScanTime::kBackward,
                    .write_scale = call_.scale,
                    .transposed_states = true,
                    .first_states = from_.dfinal_state,
                    .cut_states = cut_states,
                    .cut_states_known = true,
                    .x = dots.defined() ? call_.k : Tensor(),
                    .x_dots = dots});
    sum_heads(on_device, heads, d_.k);
    if (!dots.defined()) return;
    scan::accumulate_dots<<<dim3(unsigned(on_device.size()), unsigned(ceil_div(HV(), scan::kGateWarps))),
                            scan::kGateThreads, 0, stream_of(ctx_)>>>(
        pointer<float>(dots), int(dots.dim(0)), pointer<float>(state_dots), int(state_dots.dim(0)),
        int(cuts_.num_slots()), pointer<float>(d_.log_decay), on_device.data(), int(HV()), num_tokens());
    check_launch("accumulate_dots");
  }

 private:
  DType dtype() const { return call_.q.dtype(); }
  int64_t HV() const { return call_.v.dim(2); }
  int64_t num_tokens() const { return call_.q.dim(0) * call_.q.dim(1); }

  /// Where a scan writes a gradient of q or k.
  Tensor per_value_head(const Tensor& gradient) const {
    const Tensor heads = allocate_per_value_head(ctx_, call_);
    return heads.defined() ? heads : gradient;
  }

  void sum_heads(const UploadedGroups& groups, const Tensor& heads, const Tensor& sum) const {
    if (sum.dim(2) == HV()) return;
    dispatch_cuda(dtype(), [&](auto zero) {
      using T = decltype(zero);
      const int H = int(sum.dim(2)), width = int(sum.dim(3));
      auto kernel = scan::sum_value_heads<T>;
      // Of BF16 all widths are multiples of 64.
      if constexpr (std::is_same_v<T, float>) {
        if (width % kVector<T> != 0) kernel = scan::sum_value_heads_by_element<T>;
      }
      kernel<<<dim3(unsigned(groups.size()), unsigned(H), scan::kGateParts), scan::kGateThreads, 0,
               stream_of(ctx_)>>>(pointer<T>(heads), pointer<T>(sum), groups.data(), H, int(HV() / H), width);
      check_launch("sum_value_heads");
    });
  }

  Context& ctx_;
  const LinearStateCall& call_;
  ScanCuts cuts_;
  const LinearStateCotangents& from_;
  Saved saved_;
  const LinearStateGradients& d_;
};

void scalar_decay_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                      const LinearStateForward& out) {
  const Saved saved(out.saved);
  run_state_scan(ctx, call, ScanCuts(call), which,
                 {.q = call.q,
                  .k = call.k,
                  .v = call.v,
                  .out = out.out,
                  .time = ScanTime::kForward,
                  .read_scale = call.scale,
                  .first_states = call.initial_state,
                  .last_states = out.final_state,
                  .cut_states = saved.cut_states,
                  .saved_states = saved.group_states});
}

void scalar_decay_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                      const LinearStateCotangents& from, const LinearStateGradients& d) {
  Backward backward(ctx, call, from, d);
  backward.query_gradients(which);
  backward.key_value_gradients(which);
}

void scalar_decay_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                            const LinearStateForward&) {
  if (!summary) return;
  run_state_scan(ctx, call, ScanCuts(call), SegmentSet::kEndingRow,
                 {.k = call.k, .v = call.v, .time = ScanTime::kForward, .last_states = summary->state});
  if (summary->transition.kind == TransitionKind::kIdentity) return;
  const int64_t rows = call.q.dim(0), heads = call.v.dim(2);
  scan::sum_log_decays<<<dim3(unsigned(rows), unsigned(heads)), scan::kGateThreads, 0, stream_of(ctx)>>>(
      pointer<float>(call.log_decay), call.log_decay.defined() ? call.log_decay.row_stride(heads) : 0,
      pointer<float>(call.head_log_decay), call.q.dim(1), pointer<float>(summary->transition.values));
  check_launch("sum_log_decays");
}

void scalar_decay_dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                         const Tensor& dstate_in) {
  run_state_scan(ctx, call, ScanCuts(call), SegmentSet::kContinuing,
                 {.k = call.q,
                  .v = from.dout,
                  .time = ScanTime::kBackward,
                  .write_scale = call.scale,
                  .last_states = dstate_in});
}

void scalar_decay_local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                            const LinearStateGradients& d) {
  Backward backward(ctx, call, from, d);
  backward.query_gradients(SegmentSet::kAll);
  backward.key_value_gradients(SegmentSet::kInsideRow);
}

void scalar_decay_fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                           const LinearStateGradients& d) {
  Backward(ctx, call, from, d).key_value_gradients(SegmentSet::kEndingRow);
}

}  // namespace

void add_scalar_decay_kernels(LinearStateKernels& kernels) {
  kernels.forward = scalar_decay_fwd;
  kernels.backward = scalar_decay_bwd;
  kernels.summarize = scalar_decay_summarize;
  kernels.dstate = scalar_decay_dstate;
  kernels.local_bwd = scalar_decay_local_bwd;
  kernels.fold_bwd = scalar_decay_fold_bwd;
  kernels.step = linear_step<StateWrite::kValue>;
}

}  // namespace spanwise::cuda
