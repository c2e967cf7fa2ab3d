#pragma once
// A family's kernels on the CPU, from the Values class that says what its chunks write (linear_scan.h).

#include "core/ops/cpu/linear_spans.h"

namespace spanwise::cpu {

template <template <class> class Values>
struct LinearFamilyKernels {
  static void forward(Context& ctx, const LinearStateCall& call, SegmentSet which,
                      const LinearStateForward& out) {
    dispatch_float(call.q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      scan_forward<T, Values<T>>(ctx, call, which, out);
    });
  }
  static void backward(Context& ctx, const LinearStateCall& call, SegmentSet which,
                       const LinearStateCotangents& from, const LinearStateGradients& d) {
    dispatch_float(call.q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      scan_backward<T, Values<T>>(ctx, call, which, from, d);
    });
  }
  static void summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
                        const LinearStateForward&) {
    if (!summary) return;
    dispatch_float(call.q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      scan_summaries<T, Values<T>>(ctx, call, *summary);
    });
  }
  static void dstate(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                     const Tensor& dstate_in) {
    dispatch_float(call.q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      scan_state_gradients<T, Values<T>>(ctx, call, from.dout, dstate_in);
    });
  }
  static void temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input) {
    if (input.stage == LinearStage::kSummarize && !input.summary) return;
    StateDims dims = state_dims(call);
    if (input.stage == LinearStage::kSummarize) dims.V += dims.K;  // [B | M]
    const bool backward = input.stage == LinearStage::kBackward || input.stage == LinearStage::kLocalBwd ||
                          input.stage == LinearStage::kFoldBwd;
    dry_scan<Values>(ctx, call, dims, backward && call.v.dim(2) > call.q.dim(2) ? 2 : 0);
  }
};

/// All but the step. Segments do not depend on each other but for what goes over rows, so local and fold are
/// forward and backward of some of them.
template <template <class> class Values>
LinearStateKernels linear_family_kernels() {
  using Kernels = LinearFamilyKernels<Values>;
  return {.allocate_saved = allocate_chunk_states,
          .allocate_passed = allocate_nothing,
          .temporaries = Kernels::temporaries,
          .forward = Kernels::forward,
          .backward = Kernels::backward,
          .summarize = Kernels::summarize,
          .dstate = Kernels::dstate};
}

}  // namespace spanwise::cpu
