#include "tests/testing/op_testing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/testing/dry_testing.h"

namespace spanwise::testing {

Context& test_context() {
  static Context ctx({.num_threads = 2, .poison = true});
  return ctx;
}

Tensor random_tensor(const Shape& shape, DType dtype, const std::string& name, double scale, double shift) {
  Tensor t = Tensor::empty(test_context(), shape, dtype);
  const RandomStream random(1234, name);
  dispatch_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t i = 0; i < t.numel(); ++i) t.data<T>()[i] = T(scale * random.normal(uint64_t(i)) + shift);
  });
  return t;
}

std::vector<double> to_doubles(const Tensor& tensor) {
  const Tensor t = tensor.to_contiguous(test_context());
  std::vector<double> values(size_t(t.numel()));
  dispatch_float(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    std::copy_n(t.data<T>(), t.numel(), values.begin());
  });
  return values;
}

Tensor cast(const Tensor& t, DType dtype) {
  if (!t.defined() || t.dtype() == dtype) return t;
  const std::vector<double> values = to_doubles(t);
  Tensor out = Tensor::empty(test_context(), t.shape(), dtype);
  dispatch_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    std::transform(values.begin(), values.end(), out.data<T>(), [](double v) { return T(v); });
  });
  return out;
}

namespace {

std::string coordinate(const Shape& shape, int64_t index) {
  std::vector<int64_t> at(size_t(shape.num_dims()));
  for (int i = shape.num_dims() - 1; i >= 0; --i) {
    at[i] = index % shape[i];
    index /= shape[i];
  }
  return fmt::format("[{}]", fmt::join(at, ", "));
}

Tensor weight_of(const Tensor& output, size_t index) {
  return random_tensor(output.shape(), output.dtype(), fmt::format("loss weight {}", index));
}

struct Loss {
  double value = 0;
  double summed = 0;  ///< absolute values of its terms
};
Loss loss_of(const OpFunction& op, const std::vector<Tensor>& operands) {
  const std::vector<Tensor> outputs = evaluate(op, operands);
  Loss loss;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) continue;
    const auto x = to_doubles(outputs[i]), w = to_doubles(weight_of(outputs[i], i));
    for (size_t e = 0; e < x.size(); ++e) {
      loss.value += x[e] * w[e];
      loss.summed += std::abs(x[e] * w[e]);
    }
  }
  return loss;
}

std::vector<Var> make_leaves(const std::vector<Tensor>& operands, bool requires_grad) {
  std::vector<Var> leaves;
  for (const Tensor& t : operands) leaves.push_back(t.defined() ? Var(t, requires_grad) : Var());
  return leaves;
}

}  // namespace

double rounding_of(DType dtype, double summed) {
  const double epsilon =
      dtype == DType::kF64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  return 16 * epsilon * summed;
}

double size_of(const std::vector<Tensor>& tensors) {
  double largest = 0;
  for (const Tensor& t : tensors) {
    if (!t.defined()) continue;
    for (const double v : to_doubles(t)) largest = std::max(largest, std::abs(v));
  }
  return largest;
}

::testing::AssertionResult near(const Tensor& actual, const Tensor& expected, double tolerance,
                                double rounding) {
  if (!(actual.shape() == expected.shape())) {
    return ::testing::AssertionFailure()
           << "shape " << actual.shape().str() << " is not " << expected.shape().str();
  }
  const auto a = to_doubles(actual), b = to_doubles(expected);
  double largest = 1e-300, worst = -1;
  size_t at = 0;
  for (double v : b) largest = std::max(largest, std::abs(v));
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(a[i] - b[i]);
    if (!(error <= worst)) {  // also taken by NaN
      worst = error;
      at = i;
      if (std::isnan(error)) break;
    }
  }
  if (worst <= tolerance * largest + rounding) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << fmt::format(
             "at {}: got {:.12g}, expected {:.12g}; error {:.3g} > {:.1g} of {:.3g} + rounding {:.1g}",
             coordinate(actual.shape(), int64_t(at)), a[at], b[at], worst, tolerance, largest, rounding);
}

::testing::AssertionResult bitwise_equal(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype())
    return ::testing::AssertionFailure() << "shape or dtype differ";
  const Tensor x = a.to_contiguous(test_context()), y = b.to_contiguous(test_context());
  if (std::memcmp(x.raw(), y.raw(), x.bytes()) == 0) return ::testing::AssertionSuccess();
  const auto u = to_doubles(x), v = to_doubles(y);
  for (size_t i = 0; i < u.size(); ++i) {
    if (std::memcmp(&u[i], &v[i], sizeof(double)) != 0) {
      return ::testing::AssertionFailure()
             << fmt::format("at {}: {:.17g} and {:.17g}", coordinate(a.shape(), int64_t(i)), u[i], v[i]);
    }
  }
  return ::testing::AssertionFailure() << "bytes differ";
}

std::vector<Tensor> evaluate(const OpFunction& op, const std::vector<Tensor>& operands) {
  Tape tape(test_context(), Tape::Mode::kInference);
  std::vector<Tensor> values;
  for (const Var& v : op(tape, make_leaves(operands, false)))
    values.push_back(v.defined() ? v.value() : Tensor());
  return values;
}

std::vector<Tensor> gradients(const OpFunction& op, const std::vector<Tensor>& operands) {
  Tape tape(test_context());
  const std::vector<Var> leaves = make_leaves(operands, true);
  const std::vector<Var> outputs = op(tape, leaves);
  std::vector<Var> seeded;
  std::vector<Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) continue;
    seeded.push_back(outputs[i]);
    seeds.push_back(weight_of(outputs[i].value(), i));
  }
  tape.backward(seeded, seeds);
  std::vector<Tensor> grads;
  for (const Var& leaf : leaves)
    grads.push_back(leaf.defined() ? leaf.grad_or_zeros(test_context()) : Tensor());
  return grads;
}

void check_gradients(const OpFunction& op, const std::vector<Tensor>& operands, GradientCheck options) {
  if (options.dry) check_dry(op, operands);
  const std::vector<Tensor> analytic = gradients(op, operands);
  const std::vector<Tensor> again = gradients(op, operands);
  // A difference is 1.5 times the loss's rounding off, over the step; 4 epsilon of its terms.
  const double noise =
      4 * std::numeric_limits<double>::epsilon() * loss_of(op, operands).summed * 1.5 / options.step;
  for (size_t o = 0; o < operands.size(); ++o) {
    if (!operands[o].defined()) continue;
    SCOPED_TRACE(fmt::format("operand {}", o));
    EXPECT_TRUE(bitwise_equal(analytic[o], again[o]));
    const std::vector<double> grad = to_doubles(analytic[o]);
    const double bound = options.tolerance * size_of({analytic[o]}) + noise;

    std::vector<Tensor> moved = operands;
    moved[o] = Tensor::empty(test_context(), operands[o].shape(), DType::kF64);
    moved[o].copy_from(operands[o]);
    double* x = moved[o].data<double>();
    const int64_t n = operands[o].numel(), count = std::min(n, options.max_elements);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t i = count == 1 ? 0 : c * (n - 1) / (count - 1);
      const double kept = x[i];
      const auto moved_by = [&](double steps) {
        x[i] = kept + steps * options.step;
        return loss_of(op, moved).value;
      };
      const double near_difference = moved_by(1) - moved_by(-1), far_difference = moved_by(2) - moved_by(-2);
      x[i] = kept;
      const double numeric = (8 * near_difference - far_difference) / (12 * options.step);
      const double error = std::abs(numeric - grad[i]);
      EXPECT_TRUE(error <= bound) << fmt::format(
          "at {}: analytic {:.12g}, finite difference {:.12g}; error {:.3g} > {:.3g}, of which rounding "
          "{:.1g}",
          coordinate(operands[o].shape(), i), grad[i], numeric, error, bound, noise);
    }
  }
}

void check_fp32(const OpFunction& op, const std::vector<Tensor>& operands) {
  std::vector<Tensor> low;
  for (const Tensor& t : operands) low.push_back(cast(t, DType::kF32));
  check_dry(op, low);
  const auto values64 = evaluate(op, operands), values32 = evaluate(op, low);
  const double value_rounding = rounding_of(DType::kF32, size_of(values64));
  for (size_t i = 0; i < values64.size(); ++i) {
    if (!values64[i].defined()) continue;
    EXPECT_TRUE(near(values32[i], values64[i], kTolerance32.value, value_rounding)) << "output " << i;
  }
  const auto grads64 = gradients(op, operands), grads32 = gradients(op, low);
  const double gradient_rounding = rounding_of(DType::kF32, size_of(grads64));
  for (size_t i = 0; i < grads64.size(); ++i) {
    if (!grads64[i].defined()) continue;
    EXPECT_TRUE(near(grads32[i], grads64[i], kTolerance32.gradient, gradient_rounding)) << "operand " << i;
  }
}

}  // namespace spanwise::testing
