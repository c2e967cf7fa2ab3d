#include "core/ops/gated_delta.h"

#include "core/dispatch.h"

namespace spanwise {

namespace work {
Work gated_delta_step(const Context&, const LinearStateStep& step, const Tensor& out) {
  return {
      .flops = 6.0 * double(step.state.numel()),
      .bytes = bytes_of(step.q, step.k, step.v, step.log_decay, step.beta, out) + 2 * bytes_of(step.state)};
}
}  // namespace work
namespace dry {
constexpr LinearStepTemporaries gated_delta_step;
}

namespace {

LinearStateFlops gated_delta_flops(const LinearStateShape& s, const ChunkList& list) {
  const double K = double(s.key_dim), V = double(s.value_dim), HV = double(s.value_heads);
  LinearStateFlops flops{};
  for (const ChunkList::Chunk& chunk : list.chunks()) {
    const double n = double(chunk.length);
    flops.forward += HV * (2 * n * n * (K + V) + 6 * n * K * V);
    flops.summary += HV * (n * (n - 1) * (K + V) + 4 * n * K * V);
  }
  return flops;
}

LinearStateKernels gated_delta_kernels(const Context& ctx) {
  if (ctx.device() == Device::kCUDA) {
    LinearStateKernels kernels{.allocate_saved = cuda::gated_delta_saved,
                               .allocate_passed = cuda::gated_delta_passed,
                               .temporaries = cuda::gated_delta_temporaries,
                               .flops = gated_delta_flops};
    if constexpr (kHasCuda) {
      kernels.forward = cuda::gated_delta_fwd;
      kernels.backward = cuda::gated_delta_bwd;
      kernels.summarize = cuda::gated_delta_summarize;
      kernels.local = cuda::gated_delta_local;
      kernels.fold = cuda::gated_delta_fold;
      kernels.dstate = cuda::gated_delta_dstate;
      kernels.local_bwd = cuda::gated_delta_local_bwd;
      kernels.fold_bwd = cuda::gated_delta_fold_bwd;
    }
    return kernels;
  }
  return {.allocate_saved = allocate_chunk_states,
          .allocate_passed = allocate_nothing,
          .temporaries = cpu::gated_delta_temporaries,
          .flops = gated_delta_flops,
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
