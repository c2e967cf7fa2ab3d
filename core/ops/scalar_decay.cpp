#include "core/ops/scalar_decay.h"

#include "core/dispatch.h"

namespace spanwise {

namespace {

LinearStateKernels scalar_decay_kernels(const Context& ctx) {
  if constexpr (kHasCuda) {
    if (ctx.device() == Device::kCUDA) {
      return {.allocate_saved = cuda::scalar_decay_saved,
              .forward = cuda::scalar_decay_fwd,
              .backward = cuda::scalar_decay_bwd,
              .summarize = cuda::scalar_decay_summarize,
              .local = cuda::scalar_decay_local,
              .fold = cuda::scalar_decay_fold,
              .dstate = cuda::scalar_decay_dstate,
              .local_bwd = cuda::scalar_decay_local_bwd,
              .fold_bwd = cuda::scalar_decay_fold_bwd};
    }
  }
  return {.allocate_saved = allocate_chunk_states,
          .forward = cpu::scalar_decay_fwd,
          .backward = cpu::scalar_decay_bwd,
          .summarize = cpu::scalar_decay_summarize,
          .local = cpu::scalar_decay_local,
          .fold = cpu::scalar_decay_fold,
          .dstate = cpu::scalar_decay_dstate,
          .local_bwd = cpu::scalar_decay_local_bwd,
          .fold_bwd = cpu::scalar_decay_fold_bwd};
}

}  // namespace

LinearStateResult scalar_decay(Tape& tape, const Var& q, const Var& k, const Var& v, const Decay& decay,
                               const SequenceLayout& layout, const Var& initial_state,
                               const LinearStateOptions& options) {
  const LinearStateVars operands{.q = q,
                                 .k = k,
                                 .v = v,
                                 .log_decay = decay.per_token,
                                 .head_log_decay = decay.per_head,
                                 .beta = Var(),
                                 .initial_state = initial_state};
  return linear_state(tape, operands, layout, options, scalar_decay_kernels(tape.context()));
}

// With an exchange the part of dk that comes from the next spans is summed per value head however many there
// are.
LinearStateBytes scalar_decay_bytes(Device device, const LinearStateShape& s, const ChunkList& chunks) {
  if (device == Device::kCUDA) return cuda::scalar_decay_bytes(s, chunks);
  const int64_t heads = value_head_gradient_bytes(s), sums = s.value_heads > s.key_heads ? 2 * heads : 0;
  return {.saved = chunk_state_bytes(s, chunks), .backward = sums, .local_bwd = sums, .fold_bwd = heads};
}

Tensor scalar_decay_step(Context& ctx, const LinearStateStep& step) {
  SPANWISE_CHECK(!step.beta.defined(), "scalar_decay has no beta; gated_delta has");
  const Tensor out = check_linear_state_step(ctx, step);
  SPANWISE_DISPATCH(ctx, scalar_decay_step, ctx, step, out);
  return out;
}

}  // namespace spanwise
