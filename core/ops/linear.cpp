#include "core/ops/linear.h"

#include "core/dispatch.h"
#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/cuda/common/linear_calls.h"

namespace spanwise {

namespace work {

double products(const Tensor& rows, const Tensor& matrix) {
  return 2.0 * double(rows.numel() / rows.dim(-1)) * double(matrix.numel());
}
Work linear_fwd(const Context&, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  return {.flops = products(x, weight), .bytes = bytes_of(x, weight, bias, y)};
}
Work linear_bwd_x(const Context&, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  return {.flops = products(dy, weight), .bytes = bytes_of(dy, weight) + (accumulate ? 2 : 1) * bytes_of(dx)};
}
Work linear_bwd_weight(const Context&, const Tensor& dy, const Tensor& x, const Tensor& dweight,
                       bool accumulate) {
  return {.flops = products(dy, dweight),
          .bytes = bytes_of(dy, x) + (accumulate ? 2 : 1) * bytes_of(dweight)};
}
constexpr Moves linear_bwd_bias;

}  // namespace work

namespace dry {

void linear_fwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  if (ctx.device() == Device::kCPU) return;
  Tensor rounded = bias;
  if (bias.defined() && bias.dtype() != y.dtype()) rounded = Tensor::empty(ctx, bias.shape(), y.dtype());
  cuda::dry_gemm(ctx, cuda::linear_fwd_call(x, weight, rounded, y));
}

void linear_bwd_x(Context& ctx, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  if (ctx.device() == Device::kCUDA) cuda::dry_gemm(ctx, cuda::linear_bwd_x_call(dy, weight, dx, accumulate));
}

void linear_bwd_weight(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& dweight,
                       bool accumulate) {
  if (ctx.device() == Device::kCUDA)
    cuda::dry_gemm(ctx, cuda::linear_bwd_weight_call(dy, x, dweight, accumulate));
}

void linear_bwd_bias(Context& ctx, const Tensor& dy, const Tensor& dbias) {
  if (ctx.device() == Device::kCPU) return;
  const int64_t rows = dy.numel() / dbias.numel();
  Tensor::empty(ctx, {cuda::ceil_div(rows, cuda::kBiasRowsPerBlock), dbias.numel()}, DType::kF32);
}

}  // namespace dry

namespace {

Shape with_last_dim(const Shape& shape, int64_t last) {
  std::vector<int64_t> dims = shape.to_vector();
  dims.back() = last;
  return Shape(dims);
}

void check_operands(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  SPANWISE_CHECK(weight.num_dims() == 2 && weight.contiguous(), "a linear weight is a matrix, got shape {}",
                 weight.shape().str());
  SPANWISE_CHECK(x.num_dims() >= 1 && x.dim(-1) == weight.dim(1),
                 "x {} has not the {} input columns of weight {}", x.shape().str(), weight.dim(1),
                 weight.shape().str());
  SPANWISE_CHECK(x.dtype() == weight.dtype(), "x is {} and the weight {}", name_of(x.dtype()),
                 name_of(weight.dtype()));
  if (!bias.defined()) return;
  SPANWISE_CHECK(
      bias.numel() == weight.dim(0) && bias.contiguous() && bias.dtype() == accumulation_dtype(x.dtype()),
      "bias {} {} does not fit weight {} {}", name_of(bias.dtype()), bias.shape().str(),
      name_of(weight.dtype()), weight.shape().str());
}

}  // namespace

Tensor linear_fwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_operands(x, weight, bias);
  Tensor y = Tensor::empty(ctx, with_last_dim(x.shape(), weight.dim(0)), x.dtype());
  SPANWISE_DISPATCH(ctx, linear_fwd, ctx, x, weight, bias, y);
  return y;
}

void linear_bwd_x(Context& ctx, const Tensor& dy, const Tensor& weight, const Var::GradTarget& dx) {
  SPANWISE_DISPATCH(ctx, linear_bwd_x, ctx, dy, weight, dx.tensor, dx.accumulate);
}

void linear_bwd_weight(Context& ctx, const Tensor& dy, const Tensor& x, const Var::GradTarget& dweight) {
  SPANWISE_DISPATCH(ctx, linear_bwd_weight, ctx, dy, x, dweight.tensor, dweight.accumulate);
}

Tensor linear_bwd_bias(Context& ctx, const Tensor& dy) {
  Tensor dbias = Tensor::empty(ctx, {dy.dim(-1)}, accumulation_dtype(dy.dtype()));
  SPANWISE_DISPATCH(ctx, linear_bwd_bias, ctx, dy, dbias);
  return dbias;
}

int64_t linear_workspace_bytes(Device device) {
  return device == Device::kCUDA ? int64_t(cuda::kGemmWorkspaceBytes) : 0;
}

int64_t linear_trial_bytes(Device device, int64_t rows, int64_t outputs, int64_t inputs) {
  if (device != Device::kCUDA || outputs == 0 || inputs == 0) return 0;
  const int64_t row_bytes = inputs * int64_t(sizeof(float)),
                block = cuda::gemm_rows_at_once(outputs, row_bytes);
  return cuda::gemm_is_measured(block, inputs, rows) ? block * row_bytes : 0;
}

Var linear(Tape& tape, const Var& x, const Var& weight, const Var& bias, Recompute recompute) {
  Context& ctx = tape.context();
  Var y = tape.output(linear_fwd(ctx, x.value(), weight.value(), bias.defined() ? bias.value() : Tensor()),
                      {x, weight, bias});
  if (recompute == Recompute::kYes) {
    tape.recompute_by(y, [&ctx, x = x.saved(), weight = weight.saved(), bias = bias.saved()] {
      return linear_fwd(ctx, x.get(), weight.get(), bias.get());
    });
  }
  const auto backward = [&ctx, dx = x.adjoint(), weight, dy = y.adjoint()] {
    if (dx.requires_grad()) linear_bwd_x(ctx, dy.grad(), weight.value(), dx.grad_target(ctx, dx.dtype()));
  };
  const auto gradients_of_parameters = [&ctx, dweight = weight.adjoint(), dbias = bias.adjoint(),
                                        dy = y.adjoint(), x = weight.requires_grad() ? x.saved() : Saved()] {
    if (dweight.requires_grad()) {
      linear_bwd_weight(ctx, dy.grad(), x.get(),
                        dweight.grad_target(ctx, accumulation_dtype(dweight.dtype())));
    }
    if (dbias.requires_grad()) dbias.add_grad(ctx, linear_bwd_bias(ctx, dy.grad()));
  };
  tape.record({x, weight, bias}, {y}, backward, gradients_of_parameters);
  return y;
}

}  // namespace spanwise
