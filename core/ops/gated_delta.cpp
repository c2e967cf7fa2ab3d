#include "core/ops/gated_delta.h"

#include "core/ops/linear_kernels.h"

namespace spanwise {

namespace {

LinearStateFlops flops_of(const LinearStateShape& s, const ChunkList& list) {
  const double K = double(s.key_dim), V = double(s.value_dim), HV = double(s.value_heads);
  const auto forward = [=](double n) { return 2 * n * n * (K + V) + 6 * n * K * V; };
  const auto state = [=](double n) { return n * (n - 1) * (K + V) + 4 * n * K * V; };
  const auto transition = [=](double n) { return n * (n - 1) * K + 4 * n * K * K; };
  return {.forward = HV * sum_over_chunks(list, SegmentSet::kAll, forward),
          .summary = HV * (sum_over_chunks(list, SegmentSet::kEndingRow, state) +
                           sum_over_chunks(list, SegmentSet::kPassing, transition)),
          .dstate = HV * sum_over_chunks(list, SegmentSet::kContinuing, forward)};
}

LinearStateKernels kernels_of(Device device) {
  return device == Device::kCUDA ? cuda::gated_delta_kernels() : cpu::gated_delta_kernels();
}

using enum LinearOperand;

}  // namespace

constinit const LinearFamily kGatedDelta{.name = "gated_delta",
                                         .transition = TransitionKind::kDense,
                                         .needs = {kQ, kK, kV, kBeta},
                                         .takes = {kLogDecay, kInitialState},
                                         .flops = flops_of,
                                         .step_flops = 6,
                                         .kernels = kernels_of};

LinearStateResult gated_delta(Tape& tape, const LinearOperands<Var>& x, const SequenceLayout& layout,
                              const LinearStateOptions& options) {
  return linear_state(tape, kGatedDelta, x, layout, options);
}

LinearStateBytes gated_delta_bytes(Device device, const LinearStateShape& s, const ChunkList& chunks) {
  if (device == Device::kCUDA) return cuda::gated_delta_bytes(s, chunks);
  const int64_t sums = s.value_heads > s.key_heads ? 2 * value_head_gradient_bytes(s) : 0;
  return {.saved = chunk_state_bytes(s, chunks), .backward = sums, .local_bwd = sums, .fold_bwd = sums};
}

}  // namespace spanwise
