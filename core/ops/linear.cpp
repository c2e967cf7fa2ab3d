#include "core/ops/linear.h"

#include "core/dispatch.h"
#include "core/ops/cuda/common/gemm.h"

namespace spanwise {

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
