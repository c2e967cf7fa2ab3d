#include "core/ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "core/ops/cuda/common/linear_calls.h"
#include "core/ops/operand_checks.h"
#include "core/upload.h"

namespace spanwise {

namespace work {

Work linear_cross_entropy_fwd(const Context&, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor&) {
  const double rows = double(labels.size()), chunks = std::ceil(rows / double(options.chunk_rows)),
               logits = rows * double(weight.dim(0)) * double(size_of(x.dtype()));
  const int products = 1 + int(grads.dx.defined()) + int(grads.dweight.defined());
  // The logits are written and read, then written again as gradients, which the products read.
  const double passes = products == 1 ? 2 : 2 + products;
  return {.flops = products * 2.0 * rows * double(weight.numel()),
          .bytes = bytes_of(x, grads.dx) + chunks * bytes_of(weight) * (grads.dx.defined() ? 2 : 1) +
                   passes * logits + 2 * chunks * bytes_of(grads.dweight)};
}
Work scale_in_place(const Context&, const Tensor& t, const Tensor&) {
  return {.bytes = 2 * bytes_of(t)};
}

}  // namespace work

namespace dry {

constexpr NoTemporaries scale_in_place;

/// A chunk's maxima and sums; what the parts of a divided vocabulary reduce.
void reduce_chunk(Context& ctx, int64_t rows, DType dtype, const DimPart& part) {
  const Tensor maxima = Tensor::empty(ctx, {rows}, dtype), sums = Tensor::empty(ctx, {2, rows}, dtype);
  if (!part.divided()) return;
  part.max(maxima);
  part.sum(sums);
}

void linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor& loss) {
  const bool gpu = ctx.device() == Device::kCUDA;
  const int64_t rows = int64_t(labels.size()), chunk = std::min(options.chunk_rows, rows),
                vocab = weight.dim(0);
  Tensor device_labels, losses;
  if (gpu) {
    device_labels = upload(ctx, labels);
    losses = Tensor::empty(ctx, {rows}, DType::kF32);
  }
  const Tensor logits = Tensor::empty(ctx, {chunk, gpu ? cuda::logits_stride(vocab) : vocab}, x.dtype());
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const cuda::CrossEntropyChunk products{x, weight, logits, begin, std::min(chunk, rows - begin)};
    if (gpu) cuda::dry_gemm(ctx, products.logits_call());
    if (!gpu || options.part.divided()) reduce_chunk(ctx, products.rows, loss.dtype(), options.part);
    if (gpu && grads.dx.defined()) cuda::dry_gemm(ctx, products.dx_call(grads.dx));
    if (gpu && grads.dweight.defined()) cuda::dry_gemm(ctx, products.dweight_call(grads.dweight));
  }
}

}  // namespace dry

namespace {

void check_labels(const std::vector<int32_t>& labels, int64_t vocab) {
  for (size_t i = 0; i < labels.size(); ++i) {
    if ((labels[i] < 0 || labels[i] >= vocab) && labels[i] != kIgnoredLabel) {
      fail_user(
          "Label {} at position {} of the batch is outside the model's vocabulary of {}; use the tokenizer "
          "that the model was made for, or raise the vocabulary size.",
          labels[i], i, vocab);
    }
  }
}

}  // namespace

int64_t default_chunk_rows(Device device, int64_t vocab) {
  if (device == Device::kCPU) return 1024;
  constexpr int64_t kLogits = int64_t{1} << 28, kTile = 256;
  return std::max(kLogits / std::max<int64_t>(vocab, 1) / kTile * kTile, kTile);
}

void linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor& loss) {
  SPANWISE_CHECK(weight.num_dims() == 2 && weight.contiguous() && x.dim(-1) == weight.dim(1),
                 "x {} does not fit the output weight {}", x.shape().str(), weight.shape().str());
  SPANWISE_CHECK(x.dtype() == weight.dtype(), "x is {} and the weight {}", name_of(x.dtype()),
                 name_of(weight.dtype()));
  SPANWISE_CHECK(int64_t(labels.size()) * x.dim(-1) == x.numel(), "{} labels for x {}", labels.size(),
                 x.shape().str());
  SPANWISE_CHECK(options.chunk_rows >= 0, "chunk_rows={} must be positive, or 0 for the default",
                 options.chunk_rows);
  check_labels(labels, options.part.divided() ? options.part.whole : weight.dim(0));
  CrossEntropyOptions chosen = options;
  // Parts of the vocabulary may differ in size, but not in their chunks.
  if (chosen.chunk_rows == 0) {
    const int64_t whole = options.part.divided() ? options.part.whole : weight.dim(0);
    chosen.chunk_rows = default_chunk_rows(ctx.device(), whole);
  }
  SPANWISE_DISPATCH(ctx, linear_cross_entropy_fwd, ctx, x, weight, labels, chosen, grads, loss);
}

void scale_in_place(const Context& ctx, const Tensor& t, const Tensor& factor) {
  check_operand("scale_in_place", "factor", factor, {1}, accumulation_dtype(t.dtype()));
  SPANWISE_DISPATCH(ctx, scale_in_place, ctx, t, factor);
}

CrossEntropyResult linear_cross_entropy(Tape& tape, const Var& x, const Var& weight,
                                        const std::vector<int32_t>& labels,
                                        const CrossEntropyOptions& options) {
  Context& ctx = tape.context();
  CrossEntropyGrads grads;
  if (tape.saving() && x.requires_grad()) grads.dx = Tensor::empty(ctx, x.shape(), x.value().dtype());
  if (tape.saving() && weight.requires_grad())
    grads.dweight = Tensor::empty(ctx, weight.shape(), accumulation_dtype(weight.value().dtype()));

  const Tensor loss = Tensor::empty(ctx, {1}, accumulation_dtype(x.value().dtype()));
  linear_cross_entropy_fwd(ctx, x.value(), weight.value(), labels, options, grads, loss);

  CrossEntropyResult result;
  result.num_targets =
      std::count_if(labels.begin(), labels.end(), [](int32_t l) { return l != kIgnoredLabel; });
  result.loss = tape.output(loss, {x, weight});
  tape.record({x, weight}, {result.loss},
              [&ctx, x = x.adjoint(), weight = weight.adjoint(), grads, loss = result.loss.adjoint()] {
                const auto finish = [&](const Adjoint& var, const Tensor& grad) {
                  if (!var.requires_grad()) return;
                  scale_in_place(ctx, grad, loss.grad());
                  var.add_grad(ctx, grad);
                };
                finish(x, grads.dx);
                finish(weight, grads.dweight);
              });
  return result;
}

}  // namespace spanwise
