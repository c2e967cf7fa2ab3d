#include "core/ops/gated_delta.h"

#include "core/dispatch.h"

namespace spanwise {

namespace {

LinearStateKernels gated_delta_kernels(const Context& ctx) {
  if constexpr (kHasCuda) {
    if (ctx.device() == Device::kCUDA)
      return {.allocate_saved = cuda::gated_delta_saved,
              .forward = cuda::gated_delta_fwd,
              .backward = cuda::gated_delta_bwd,
              .summarize = cuda::gated_delta_summarize,
              .local = cuda::gated_delta_local,
              .fold = cuda::gated_delta_fold,
              .dstate = cuda::gated_delta_dstate,
              .local_bwd = cuda::gated_delta_local_bwd,
              .fold_bwd = cuda::gated_delta_fold_bwd};
  }
  return {.allocate_saved = allocate_chunk_states,
          .forward = cpu::gated_delta_fwd,
          .backward = cpu::gated_delta_bwd,
          .summarize = cpu::gated_delta_summarize,
          .local = cpu::gated_delta_local,
          .fold = cpu::gated_delta_fold,
          .dstate = cpu::gated_delta_dstate,
          .local_bwd = cpu::gated_delta_local_bwd,
          .fold_bwd = cpu::gated_delta_fold_bwd};
}

}  // namespace

LinearStateResult gated_delta(Tape& tape, const Var& q, const Var& k, const Var& v, const Var& log_decay,
                              const Var& beta, const SequenceLayout& layout, const Var& initial_state,
                              const LinearStateOptions& options) {
  SPANWISE_CHECK(beta.defined(), "gated_delta needs beta; scalar_decay is the family without one");
  const LinearStateVars operands{.q = q,
                                 .k = k,
                                 .v = v,
                                 .log_decay = log_decay,
                                 .head_log_decay = Tensor(),
                                 .beta = beta,
                                 .initial_state = initial_state};
  return linear_state(tape, operands, layout, options, gated_delta_kernels(tape.context()));
}

LinearStateBytes gated_delta_bytes(Device device, const LinearStateShape& s, const ChunkList& chunks) {
  if (device == Device::kCUDA) return cuda::gated_delta_bytes(s, chunks);
  const int64_t sums = s.value_heads > s.key_heads ? 2 * value_head_gradient_bytes(s) : 0;
  return {.saved = chunk_state_bytes(s, chunks), .backward = sums, .local_bwd = sums, .fold_bwd = sums};
}

Tensor gated_delta_step(Context& ctx, const LinearStateStep& step) {
  SPANWISE_CHECK(step.beta.defined(), "gated_delta needs beta; scalar_decay is the family without one");
  const Tensor out = check_linear_state_step(ctx, step);
  SPANWISE_DISPATCH(ctx, gated_delta_step, ctx, step, out);
  return out;
}

}  // namespace spanwise
