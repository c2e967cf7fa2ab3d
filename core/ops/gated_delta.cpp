#include "core/ops/gated_delta.h"

namespace spanwise {

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
  return linear_state(tape, operands, layout, options,
                      {.forward = cpu::gated_delta_fwd,
                       .backward = cpu::gated_delta_bwd,
                       .summarize = cpu::gated_delta_summarize,
                       .local = cpu::gated_delta_local,
                       .fold = cpu::gated_delta_fold,
                       .dstate = cpu::gated_delta_dstate,
                       .local_bwd = cpu::gated_delta_local_bwd,
                       .fold_bwd = cpu::gated_delta_fold_bwd});
}

Tensor gated_delta_step(Context& ctx, const LinearStateStep& step) {
  SPANWISE_CHECK(step.beta.defined(), "gated_delta needs beta; scalar_decay is the family without one");
  const Tensor out = check_linear_state_step(ctx, step);
  cpu::gated_delta_step(ctx, step, out);
  return out;
}

}  // namespace spanwise
