#pragma once
// Dry runs (core/context.h) beside real ones: they must take the same memory, byte for byte, and count the
// same work.

#include "core/work.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {

/// What a forward and a backward take. Sizes are those of the device's allocator.
struct RunCost {
  size_t forward_peak = 0, forward_live = 0;    ///< live: with the tape
  size_t backward_peak = 0, backward_live = 0;  ///< live: with the operands' gradients
  Work forward, backward;                       ///< the second: of both
};

/// Of op on ctx, whose operands are copies of `operands` with their strides; values are copied unless ctx is
/// dry. Every output gets a gradient of ones, in BF16 of zeros.
RunCost cost_of(Context& ctx, const OpFunction& op, const std::vector<Tensor>& operands);

void expect_equal_costs(const RunCost& dry, const RunCost& real);

/// A dry Context and a real one of the CPU agree on op. What op captures must not be memory that it reads.
void check_dry(const OpFunction& op, const std::vector<Tensor>& operands);

}  // namespace spanwise::testing
