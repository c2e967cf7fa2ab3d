#include "tests/testing/cuda_testing.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace spanwise::testing {

Context& cuda_context() {
  const char* local_rank = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  static Context ctx({.device = Device::kCUDA,
                      .num_threads = 2,
                      .poison = true,
                      .gpu = local_rank ? std::atoi(local_rank) : 0});
  return ctx;
}

Tensor to_cuda(const Tensor& t, DType dtype) {
  if (!t.defined()) return t;
  const std::vector<double> values = to_doubles(t);
  return dispatch_storage(dtype, [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> converted(values.size());
    for (size_t i = 0; i < values.size(); ++i) converted[i] = T(values[i]);
    return Tensor::from(cuda_context(), t.shape(), converted);
  });
}

Tensor to_cpu64(const Tensor& t) {
  if (!t.defined()) return t;
  const Tensor host = t.device() == Device::kCUDA ? t.to_contiguous(cuda_context()).to(test_context())
                                                  : t.to_contiguous(test_context());
  std::vector<double> values(size_t(t.numel()));
  dispatch_storage(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (size_t i = 0; i < values.size(); ++i) values[i] = double(host.data<T>()[i]);
  });
  return Tensor::from(test_context(), t.shape(), values);
}

namespace {

struct SquaredNorms {
  double error = 0, expected = 0;
};
/// ‖actual − expected‖² and ‖expected‖² over all elements.
SquaredNorms squared_norms(const Tensor& actual, const Tensor& expected) {
  const std::vector<double> a = to_doubles(to_cpu64(actual)), e = to_doubles(to_cpu64(expected));
  SPANWISE_CHECK(a.size() == e.size(), "shapes {} and {} differ", actual.shape().str(),
                 expected.shape().str());
  SquaredNorms sums;
  for (size_t i = 0; i < a.size(); ++i) {
    sums.error += (a[i] - e[i]) * (a[i] - e[i]);
    sums.expected += e[i] * e[i];
  }
  return sums;
}

}  // namespace

double rms_ratio(const Tensor& actual, const Tensor& expected) {
  const auto [error, norm] = squared_norms(actual, expected);
  if (norm == 0) return error == 0 ? 0 : std::sqrt(error);
  return std::sqrt(error / norm);
}

::testing::AssertionResult rms_near(const Tensor& actual, const Tensor& expected, double bound,
                                    double rounding) {
  const SquaredNorms sums = squared_norms(actual, expected);
  const double error = std::sqrt(sums.error), norm = std::sqrt(sums.expected);
  const double allowed = bound * norm + std::sqrt(double(actual.numel())) * rounding;
  if (error <= allowed) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << fmt::format(
             "|error| {:.3g} > {:.3g}, {:.1g} of {:.3g} and rounding", error, allowed, bound, norm);
}

namespace {

struct Result {
  std::vector<Tensor> outputs, gradients;
};

Tensor seed_of(const Tensor& output, size_t index) {
  return random_tensor(output.shape(), DType::kF64, fmt::format("loss weight {}", index));
}

/// The same values as a column block, `extra` columns into a wider matrix of NaN.
Tensor as_column_block(const Tensor& t, int64_t extra, int block_dims) {
  int64_t width = 1;
  for (int i = 0; i < block_dims; ++i) width *= t.dim(-1 - i);
  const int64_t rows = t.numel() / width;
  const std::vector<double> values = to_doubles(to_cpu64(t));
  std::vector<double> wide(size_t(rows * (width + extra)), std::nan(""));
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(values.begin() + r * width, width, wide.begin() + r * (width + extra) + extra / 2);
  const Tensor matrix = to_cuda(Tensor::from(test_context(), {rows, width + extra}, wide), t.dtype());
  return matrix.column_range(extra / 2, extra / 2 + width).reshape(t.shape());
}

Result run(Context& ctx, const OpFunction& op, const std::vector<Tensor>& operands,
           const std::vector<CudaOperand>& described) {
  Tape tape(ctx);
  std::vector<Var> leaves;
  for (size_t i = 0; i < operands.size(); ++i)
    leaves.push_back(operands[i].defined() ? Var(operands[i], described[i].gradient_bound > 0) : Var());
  const std::vector<Var> outputs = op(tape, leaves);
  std::vector<Var> seeded;
  std::vector<Tensor> seeds;
  Result result;
  for (size_t i = 0; i < outputs.size(); ++i) {
    result.outputs.push_back(outputs[i].defined() ? outputs[i].value() : Tensor());
    if (!outputs[i].defined() || !outputs[i].requires_grad()) continue;
    const Tensor seed = seed_of(outputs[i].value(), i);
    // Both devices get the seed rounded to the GPU's dtype, which is never finer than BF16 here.
    const Tensor rounded = to_cpu64(to_cuda(seed, DType::kBF16));
    seeded.push_back(outputs[i]);
    seeds.push_back(ctx.device() == Device::kCUDA ? to_cuda(rounded, outputs[i].value().dtype()) : rounded);
  }
  if (!seeded.empty()) tape.backward(seeded, seeds);
  for (const Var& leaf : leaves)
    result.gradients.push_back(leaf.defined() && leaf.requires_grad() ? leaf.grad_or_zeros(ctx) : Tensor());
  return result;
}

/// Whether a case is worth a checker's time, which is a hundred times the kernels': by its operands'
/// elements, of which F32 kernels take longer.
bool is_small(const std::vector<CudaOperand>& operands) {
  int64_t numel = 0;
  for (const CudaOperand& o : operands) numel += o.value.defined() ? o.value.numel() : 0;
  return numel <= (operands[0].dtype == DType::kF32 ? 150'000 : 2'600'000);
}

void expect_bitwise(const char* what, size_t index, const Tensor& a, const Tensor& b) {
  if (!a.defined()) return;
  const auto bytes = [](const Tensor& t) {
    const Tensor c = t.to_contiguous(cuda_context());
    std::vector<char> host(c.bytes());
    c.copy_to_host(host.data(), host.size());
    return host;
  };
  EXPECT_TRUE(bytes(a) == bytes(b)) << what << " " << index << " differs between two runs";
}

}  // namespace

bool under_checker() {
  return std::getenv("SPANWISE_TEST_UNDER_CHECKER") != nullptr;
}

void check_on_cuda(const OpFunction& op, const std::vector<CudaOperand>& operands,
                   const std::vector<double>& output_bounds) {
  if (under_checker() && !is_small(operands)) return;
  std::vector<Tensor> gpu, oracle;
  for (const CudaOperand& o : operands) {
    const Tensor t = to_cuda(o.value, o.dtype);
    oracle.push_back(to_cpu64(t));
    gpu.push_back(o.column_block > 0 && t.defined() ? as_column_block(t, o.column_block, o.block_dims) : t);
  }
  if (under_checker()) {
    run(cuda_context(), op, gpu, operands);
    cuda_context().synchronize();
    return;
  }
  const Result expected = run(test_context(), op, oracle, operands);
  const Result first = run(cuda_context(), op, gpu, operands),
               second = run(cuda_context(), op, gpu, operands);
  for (size_t i = 0; i < output_bounds.size(); ++i) {
    if (output_bounds[i] > 0) {
      EXPECT_LE(rms_ratio(first.outputs[i], expected.outputs[i]), output_bounds[i]) << "output " << i;
    }
    expect_bitwise("output", i, first.outputs[i], second.outputs[i]);
  }
  const double rounding = rounding_of(DType::kF32, size_of(expected.gradients));
  for (size_t i = 0; i < operands.size(); ++i) {
    if (!first.gradients[i].defined()) continue;
    EXPECT_TRUE(rms_near(first.gradients[i], expected.gradients[i], operands[i].gradient_bound, rounding))
        << "gradient of operand " << i;
    expect_bitwise("gradient of operand", i, first.gradients[i], second.gradients[i]);
  }
}

double median_ms(const std::function<void()>& run, int repeat) {
  const auto stream = cuda_context().stream();
  for (int i = 0; i < 3; ++i) run();
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < repeat; ++i) {
    cudaEventRecord(begin, stream);
    run();
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace spanwise::testing
