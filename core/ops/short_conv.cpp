#include "core/ops/short_conv.h"

#include "core/dispatch.h"
#include "core/ops/cuda/common/alignment.h"
#include "core/ops/cuda/common/conv_pieces.h"
#include "core/ops/cuda/common/temporaries.h"
#include "core/ops/l2_norm.h"
#include "core/ops/operand_checks.h"
#include "core/ops/views.h"
#include "core/shared_upload.h"

namespace spanwise {

namespace work {

Work short_conv_fwd(const Context&, const ShortConvInputs& in, const Tensor& out, const Tensor& final_state) {
  return {.flops = 2.0 * double(in.x.numel()) * double(in.weight.dim(-1)),
          .bytes = bytes_of(in.x, in.weight, in.bias, in.initial_state, out, final_state)};
}
Work short_conv_bwd(const Context&, const ShortConvInputs& in, const Tensor& dout, const Tensor& dfinal_state,
                    const ShortConvGradients& g) {
  return {.flops = 4.0 * double(in.x.numel()) * double(in.weight.dim(-1)),
          .bytes = bytes_of(in.x, in.weight, in.bias, in.initial_state, dout, dfinal_state) +
                   bytes_of(g.dx, g.dweight, g.dbias, g.dinitial_state)};
}

}  // namespace work

namespace dry {

/// At most so many blocks run at once: how a GPU cuts tokens follows what its kernels leave room for.
int64_t resident_blocks() {
  return cuda::most_resident_blocks(cuda::kConvThreads);
}
int64_t conv_tiles(const ShortConvInputs& in, std::initializer_list<const Tensor*> operands) {
  const bool aligned = cuda::rows_are_aligned(operands, in.x.dim(-1), cuda::kWideConv);
  return cuda::conv_tiles(in.x.dim(-1), aligned ? cuda::kWideConv : 1);
}

void short_conv_fwd(Context& ctx, const ShortConvInputs& in, const Tensor& out, const Tensor& final_state) {
  if (ctx.device() == Device::kCPU || in.x.numel() == 0) return;
  const int64_t tiles = conv_tiles(in, {&in.x, &in.initial_state, &out, &final_state}), length = in.x.dim(1);
  const int64_t tokens = cuda::conv_tokens_per_block(in.x.dim(0) * length, tiles, resident_blocks());
  shared_upload(ctx, cuda::cut_pieces(in.segments, length, tokens, nullptr));
}

void short_conv_bwd(Context& ctx, const ShortConvInputs& in, const Tensor& dout, const Tensor& dfinal_state,
                    const ShortConvGradients& g) {
  if (ctx.device() == Device::kCPU || in.x.numel() == 0) return;
  std::vector<Tensor> held;
  for (const Tensor* t : {&dout, &dfinal_state}) {
    if (t->defined() && cuda::conv_copies(in, *t)) held.push_back(Tensor::empty(ctx, t->shape(), t->dtype()));
  }
  const int64_t tiles = conv_tiles(
                    in, {&in.x, &in.initial_state, &dout, &dfinal_state, &g.dx, &g.dinitial_state}),
                length = in.x.dim(1);
  std::vector<int32_t> first;
  const std::vector<cuda::ConvPiece> pieces =
      cuda::cut_pieces(in.segments, length,
                       cuda::conv_tokens_per_range(in.x.dim(0) * length, tiles, resident_blocks()), &first);
  shared_upload(ctx, pieces);
  shared_upload(ctx, first);
  const int64_t ranges = int64_t(first.size()) - 1;
  held.push_back(Tensor::empty(ctx, {ranges, g.dweight.numel()}, DType::kF32));
  if (g.dbias.defined()) held.push_back(Tensor::empty(ctx, {ranges, g.dbias.numel()}, DType::kF32));
}

}  // namespace dry

namespace {

void check_inputs(const ShortConvInputs& in, const SequenceLayout& layout) {
  const Tensor& x = in.x;
  SPANWISE_CHECK(x.num_dims() == 3 && x.dim(0) == layout.batch() && x.dim(1) == layout.length(),
                 "short_conv: x {} does not match a layout of {} rows of {} tokens", x.shape().str(),
                 layout.batch(), layout.length());
  const int64_t channels = x.dim(2), width = in.weight.dim(-1);
  SPANWISE_CHECK(width >= 2 && width <= 4, "short_conv: a kernel of width {} is not supported (2, 3, 4 are)",
                 width);
  check_operand("short_conv", "weight", in.weight, {channels, 1, width}, accumulation_dtype(x.dtype()));
  if (in.bias.defined())
    check_operand("short_conv", "bias", in.bias, {channels}, accumulation_dtype(x.dtype()));
  if (in.initial_state.defined()) {
    check_operand("short_conv", "initial_state", in.initial_state, {x.dim(0), width - 1, channels},
                  x.dtype());
  }
  SPANWISE_CHECK(in.activation == Activation::kNone || in.activation == Activation::kSiLU,
                 "short_conv: activation {} is not supported (kNone, kSiLU are)", int(in.activation));
  SPANWISE_CHECK(in.heads.dim == 0 || (in.heads.dim > 0 && channels % in.heads.dim == 0),
                 "short_conv: {} channels are no whole number of heads of {}", channels, in.heads.dim);
}

}  // namespace

ShortConvResult short_conv(Tape& tape, const Var& x, const Var& weight, const Var& bias,
                           const SequenceLayout& layout, Activation activation, const Var& initial_state,
                           const L2Heads& heads) {
  Context& ctx = tape.context();
  const auto saved = [x = x.saved(), weight = weight.saved(), bias = bias.saved(),
                      initial = initial_state.saved(), segments = layout.segments(), activation, heads] {
    return ShortConvInputs{x.get(), weight.get(), bias.get(), initial.get(), segments, activation, heads};
  };
  struct Result {
    Tensor out, final_state;
  };
  const auto forward = [&ctx](const ShortConvInputs& in) {
    const DType dtype = in.x.dtype();
    const Result r{Tensor::empty(ctx, in.x.shape(), dtype),
                   Tensor::empty(ctx, {in.x.dim(0), in.weight.dim(-1) - 1, in.x.dim(2)}, dtype)};
    SPANWISE_DISPATCH(ctx, short_conv_fwd, ctx, in, r.out, r.final_state);
    return r;
  };
  const ShortConvInputs inputs = saved();
  check_inputs(inputs, layout);
  const bool divides = ctx.device() == Device::kCUDA && cuda::short_conv_divides_heads(inputs);
  if (heads.dim > 0 && !divides) {
    ShortConvResult result = short_conv(tape, x, weight, bias, layout, activation, initial_state);
    const Shape shape = result.out.shape();
    const Var split = reshape(tape, result.out, {shape[0], shape[1], shape[2] / heads.dim, heads.dim});
    result.out = reshape(tape, l2_norm(tape, split, heads.eps), shape);
    return result;
  }
  const Result r = forward(inputs);
  ShortConvResult result;
  result.out = tape.output(r.out, {x, weight, bias, initial_state});
  result.final_state = tape.output(r.final_state, {x, initial_state});
  tape.recompute_by(result.out, [forward, saved] { return forward(saved()).out; });

  tape.record({x, weight, bias, initial_state}, {result.out, result.final_state},
              [&ctx, saved, x = x.adjoint(), weight = weight.adjoint(), bias = bias.adjoint(),
               initial_state = initial_state.adjoint(), out = result.out.adjoint(),
               final_state = result.final_state.adjoint()] {
                const ShortConvInputs in = saved();
                const DType type = in.x.dtype();
                ShortConvGradients grads;
                grads.dx = Tensor::empty(ctx, in.x.shape(), type);
                grads.dweight = Tensor::empty(ctx, in.weight.shape(), in.weight.dtype());
                if (bias.defined()) grads.dbias = Tensor::empty(ctx, in.bias.shape(), in.bias.dtype());
                if (initial_state.defined())
                  grads.dinitial_state = Tensor::empty(ctx, initial_state.shape(), type);
                SPANWISE_DISPATCH(ctx, short_conv_bwd, ctx, in, out.grad_or_zeros(ctx), final_state.grad(),
                                  grads);
                x.add_grad(ctx, grads.dx);
                weight.add_grad(ctx, grads.dweight);
                if (bias.defined()) bias.add_grad(ctx, grads.dbias);
                if (initial_state.defined()) initial_state.add_grad(ctx, grads.dinitial_state);
              });
  return result;
}

}  // namespace spanwise
