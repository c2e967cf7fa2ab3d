#include "core/ops/linear_cross_entropy.h"

#include <algorithm>

namespace spanwise {

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

double scalar_of(const Tensor& t) {
  return dispatch_float(t.dtype(), [&](auto zero) { return double(*t.data<decltype(zero)>()); });
}

}  // namespace

double linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                                const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                                const CrossEntropyGrads& grads) {
  SPANWISE_CHECK(weight.num_dims() == 2 && weight.contiguous() && x.dim(-1) == weight.dim(1),
                 "x {} does not fit the output weight {}", x.shape().str(), weight.shape().str());
  SPANWISE_CHECK(x.dtype() == weight.dtype(), "x is {} and the weight {}", name_of(x.dtype()),
                 name_of(weight.dtype()));
  SPANWISE_CHECK(int64_t(labels.size()) * x.dim(-1) == x.numel(), "{} labels for x {}", labels.size(),
                 x.shape().str());
  SPANWISE_CHECK(options.chunk_rows >= 1, "chunk_rows={} must be at least 1", options.chunk_rows);
  check_labels(labels, options.part.divided() ? options.part.whole : weight.dim(0));
  return cpu::linear_cross_entropy_fwd(ctx, x, weight, labels, options, grads);
}

CrossEntropyResult linear_cross_entropy(Tape& tape, const Var& x, const Var& weight,
                                        const std::vector<int32_t>& labels,
                                        const CrossEntropyOptions& options) {
  Context& ctx = tape.context();
  CrossEntropyGrads grads;
  if (tape.saving() && x.requires_grad()) grads.dx = Tensor::empty(ctx, x.shape(), x.value().dtype());
  if (tape.saving() && weight.requires_grad())
    grads.dweight = Tensor::empty(ctx, weight.shape(), weight.value().dtype());

  Tensor loss = Tensor::empty(ctx, {1}, x.value().dtype());
  loss.fill(linear_cross_entropy_fwd(ctx, x.value(), weight.value(), labels, options, grads));

  CrossEntropyResult result;
  result.num_targets =
      std::count_if(labels.begin(), labels.end(), [](int32_t l) { return l != kIgnoredLabel; });
  result.loss = tape.output(loss, {x, weight});
  tape.record({x, weight}, {result.loss}, [&ctx, x, weight, grads, loss = result.loss] {
    const double seed = scalar_of(loss.grad());
    const auto finish = [&](const Var& var, const Tensor& grad) {
      if (!var.requires_grad()) return;
      if (seed != 1.0) cpu::scale_in_place(ctx, grad, seed);
      var.add_grad(ctx, grad);
    };
    finish(x, grads.dx);
    finish(weight, grads.dweight);
  });
  return result;
}

}  // namespace spanwise
