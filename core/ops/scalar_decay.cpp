#include "core/ops/scalar_decay.h"

#include "core/ops/linear_kernels.h"

namespace spanwise {

namespace {

LinearStateFlops flops_of(const LinearStateShape& s, const ChunkList& list) {
  const double K = double(s.key_dim), V = double(s.value_dim), HV = double(s.value_heads);
  const auto forward = [=](double n) { return n * (n + 1) * (K + V) + 4 * n * K * V; };
  const auto state = [=](double n) { return 2 * n * K * V; };
  return {.forward = HV * sum_over_chunks(list, SegmentSet::kAll, forward),
          .summary = HV * sum_over_chunks(list, SegmentSet::kEndingRow, state),
          .dstate = HV * sum_over_chunks(list, SegmentSet::kContinuing, state)};
}

LinearStateKernels kernels_of(Device device) {
  return device == Device::kCUDA ? cuda::scalar_decay_kernels() : cpu::scalar_decay_kernels();
}

using enum LinearOperand;

}  // namespace

constinit const LinearFamily kScalarDecay{.name = "scalar_decay",
                                          .transition = TransitionKind::kScalar,
                                          .needs = {kQ, kK, kV},
                                          .takes = {kLogDecay, kHeadLogDecay, kInitialState},
                                          .flops = flops_of,
                                          .step_flops = 4,
                                          .kernels = kernels_of};

LinearStateResult scalar_decay(Tape& tape, const LinearOperands<Var>& x, const SequenceLayout& layout,
                               const LinearStateOptions& options) {
  return linear_state(tape, kScalarDecay, x, layout, options);
}

// With an exchange the part of dk that comes from the next spans is summed per value head however many there
// are.
LinearStateBytes scalar_decay_bytes(Device device, const LinearStateShape& s, const ChunkList& chunks) {
  if (device == Device::kCUDA) return cuda::scalar_decay_bytes(s, chunks);
  const int64_t heads = value_head_gradient_bytes(s), sums = s.value_heads > s.key_heads ? 2 * heads : 0;
  return {.saved = chunk_state_bytes(s, chunks), .backward = sums, .local_bwd = sums, .fold_bwd = heads};
}

}  // namespace spanwise
