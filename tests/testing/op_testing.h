#pragma once
// The op harness: random operands, comparison with a named tolerance, and gradients against finite
// differences.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/autograd.h"
#include "core/rng.h"

namespace spanwise::testing {

/// Relative tolerances by what is compared; the one table of the test suite.
///   value     chunked or fused result = token recurrence or plain formula
///   gradient  analytic = five-point central differences (fp64) or = the fp64 analytic gradient (fp32)
/// fp64: the value bound is ~1e6 roundings, what sums over thousands of products may lose; central
/// differences with h = 1e-5 have error ~h² + 1e-16/h, near 1e-10, and 1e-6 leaves room for large third
/// derivatives. fp32: the same number of roundings of 6e-8.
struct Tolerance {
  double value, gradient;
};
constexpr Tolerance kTolerance64{1e-9, 1e-6};
constexpr Tolerance kTolerance32{2e-5, 2e-4};
inline Tolerance tolerance_of(DType dtype) {
  return dtype == DType::kF64 ? kTolerance64 : kTolerance32;
}

/// What rounding may move a sum by, in any order of its terms, if its largest terms have the size `summed`:
/// 64 roundings. A gradient that is zero in truth (of queries with one key, of what lies behind a norm) is
/// that much noise, so a bound relative to the result alone holds for one order of sums and not for another.
double rounding_of(DType dtype, double summed);
/// The largest element of all; undefined ones count nothing. The gradients of one loss are sums of the same
/// adjoints: the size of all of them together is what was summed for each.
double size_of(const std::vector<Tensor>& tensors);

/// A Context whose allocations are poisoned with NaN. num_threads 2, so that races have a chance to show.
Context& test_context();

/// Normal values times `scale` plus `shift`, keyed by `name`.
Tensor random_tensor(const Shape& shape, DType dtype, const std::string& name, double scale = 1.0,
                     double shift = 0.0);
/// The same values in another dtype.
Tensor cast(const Tensor& t, DType dtype);
std::vector<double> to_doubles(const Tensor& t);

/// max|a − b| ≤ tolerance · max|b| + rounding, no NaN; a failure names the coordinate and both values. Where
/// terms may cancel in all of b, as in gradients, `rounding` is their rounding_of.
::testing::AssertionResult near(const Tensor& actual, const Tensor& expected, double tolerance,
                                double rounding = 0);
::testing::AssertionResult bitwise_equal(const Tensor& a, const Tensor& b);

/// A function from operands to outputs. Undefined operands stay undefined.
using OpFunction = std::function<std::vector<Var>(Tape&, const std::vector<Var>&)>;

struct GradientCheck {
  double step = 2e-5;
  double tolerance = kTolerance64.gradient;
  /// Elements checked per operand (all if fewer): spread evenly, so large operands stay cheap.
  int64_t max_elements = 40;
  /// The op runs on a dry Context as well (tests/testing/dry_testing.h). Off where it reads values, or memory
  /// of test_context() that it captures.
  bool dry = true;
};
/// fp64: for loss = Σ_i ⟨outputs_i, fixed random_i⟩, compares the analytic gradient of every defined operand
/// with five-point central differences; relative to the largest gradient element of that operand, and up to
/// what rounding Σ |outputs_i · random_i| moves a difference by. Also runs backward twice and demands bitwise
/// equal gradients, and a dry run that takes the same memory.
void check_gradients(const OpFunction& op, const std::vector<Tensor>& operands, GradientCheck options = {});

/// Analytic gradients of the same loss for every operand (undefined where the operand is).
std::vector<Tensor> gradients(const OpFunction& op, const std::vector<Tensor>& operands);
/// Outputs of op, without recording.
std::vector<Tensor> evaluate(const OpFunction& op, const std::vector<Tensor>& operands);

/// Outputs and gradients of op in fp32 lie within kTolerance32, and the rounding of sums of the size of all
/// outputs or all gradients, of those in fp64 (operands are fp64; cast inside).
void check_fp32(const OpFunction& op, const std::vector<Tensor>& operands);

}  // namespace spanwise::testing
