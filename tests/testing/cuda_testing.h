#pragma once
// An op on the GPU against itself on the CPU in fp64.

#include "tests/testing/op_testing.h"

namespace spanwise::testing {

/// A Context of GPU 0, under mpirun of the rank's own, whose allocations are poisoned with NaN.
Context& cuda_context();

/// ‖actual − expected‖ / ‖expected‖ over all elements; NaN if any is. Any dtypes and devices.
double rms_ratio(const Tensor& actual, const Tensor& expected);
/// ‖actual − expected‖ ≤ bound · ‖expected‖ + √n · rounding, no NaN: `rounding` an element, of the F32 sums
/// behind a result whose terms may cancel (rounding_of).
::testing::AssertionResult rms_near(const Tensor& actual, const Tensor& expected, double bound,
                                    double rounding);

struct CudaOperand {
  Tensor value;              ///< F64, on the CPU; undefined stays so
  DType dtype;               ///< on the GPU; the oracle gets the value rounded to it
  double gradient_bound;     ///< on rms_ratio; 0: no gradient is asked for
  int64_t column_block = 0;  ///< > 0: on the GPU the tensor is a column block of a matrix, that many columns
                             ///< wider than the product of the last `block_dims` dimensions
  int block_dims = 1;
};

/// Whether a tool such as compute-sanitizer judges this run (SPANWISE_TEST_UNDER_CHECKER is set): kernels are
/// to be launched, each on little, and values need no second opinion.
bool under_checker();

/// Outputs of op, and gradients of Σ ⟨outputs, fixed random⟩, lie within the bounds of the fp64 op's,
/// gradients up to the rounding of F32 sums of the size of all of them; two runs are bitwise equal.
/// `output_bounds`: one an output; 0: not compared. The op makes what else it needs in tape.context(). Under
/// a checker: one run on the GPU of the smaller cases, nothing compared.
void check_on_cuda(const OpFunction& op, const std::vector<CudaOperand>& operands,
                   const std::vector<double>& output_bounds);

/// The bounds fla judges its bf16 kernels by, as rms_ratio.
struct CudaBounds {
  double output, gradient, gate;
};
constexpr CudaBounds kBoundsBF16{0.005, 0.008, 0.02};
constexpr CudaBounds kBoundsF32{1e-5, 2e-5, 1e-4};

/// `t` on the GPU in another dtype, from a CPU tensor.
Tensor to_cuda(const Tensor& t, DType dtype);
/// A GPU tensor as F64 on the CPU.
Tensor to_cpu64(const Tensor& t);

/// Median milliseconds of `run` by events on the Context's stream, after warm-up.
double median_ms(const std::function<void()>& run, int repeat = 20);

}  // namespace spanwise::testing
