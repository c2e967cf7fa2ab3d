#include "core/ops/scalar_decay.h"

#include "core/dispatch.h"

namespace spanwise {

namespace work {
Work scalar_decay_step(const Context&, const LinearStateStep& step, const Tensor& out) {
  return {.flops = 4.0 * double(step.state.numel()),
          .bytes = bytes_of(step.q, step.k, step.v, step.log_decay, out) + 2 * bytes_of(step.state)};
}
}  // namespace work
namespace dry {
constexpr LinearStepTemporaries scalar_decay_step;
}

namespace {

LinearStateFlops scalar_decay_flops(const LinearStateShape& s, const ChunkList& list) {
  const double K = double(s.key_dim), V = double(s.value_dim), HV = double(s.value_heads);
  LinearStateFlops flops{};
  for (const ChunkList::Chunk& chunk : list.chunks()) {
    const double n = double(chunk.length);
    flops.forward += HV * (n * (n + 1) * (K + V) + 4 * n * K * V);
    flops.summary += HV * 2 * n * K * V;
  }
  return flops;
}

LinearStateKernels scalar_decay_kernels(const Context& ctx) {
  if (ctx.device() == Device::kCUDA) {
    LinearStateKernels kernels{.allocate_saved = cuda::scalar_decay_saved,
                               .allocate_passed = allocate_nothing,
                               .temporaries = cuda::scalar_decay_temporaries,
                               .flops = scalar_decay_flops};
    if constexpr (kHasCuda) {
      kernels.forward = cuda::scalar_decay_fwd;
      kernels.backward = cuda::scalar_decay_bwd;
      kernels.summarize = cuda::scalar_decay_summarize;
      kernels.local = cuda::scalar_decay_local;
      kernels.fold = cuda::scalar_decay_fold;
      kernels.dstate = cuda::scalar_decay_dstate;
      kernels.local_bwd = cuda::scalar_decay_local_bwd;
      kernels.fold_bwd = cuda::scalar_decay_fold_bwd;
    }
    return kernels;
  }
  return {.allocate_saved = allocate_chunk_states,
          .allocate_passed = allocate_chunk_states,
          .temporaries = cpu::scalar_decay_temporaries,
          .flops = scalar_decay_flops,
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
