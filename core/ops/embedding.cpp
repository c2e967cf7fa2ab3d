#include "core/ops/embedding.h"

namespace spanwise {

Tensor embedding_fwd(Context& ctx, const std::vector<int32_t>& tokens, const Shape& leading,
                     const Tensor& weight) {
  SPANWISE_CHECK(weight.num_dims() == 2 && weight.contiguous(),
                 "an embedding weight is a matrix, got shape {}", weight.shape().str());
  SPANWISE_CHECK(int64_t(tokens.size()) == leading.numel(), "{} tokens for shape {}", tokens.size(),
                 leading.str());
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= weight.dim(0)) {
      fail_user(
          "Token id {} at position {} of the batch is outside the model's vocabulary of {}; use the "
          "tokenizer "
          "that the model was made for, or raise the vocabulary size.",
          tokens[i], i, weight.dim(0));
    }
  }
  std::vector<int64_t> dims = leading.to_vector();
  dims.push_back(weight.dim(1));
  Tensor y = Tensor::empty(ctx, Shape(dims), weight.dtype());
  cpu::embedding_fwd(ctx, tokens, weight, y);
  return y;
}

void embedding_bwd(Context& ctx, const Tensor& dy, const std::vector<int32_t>& tokens,
                   const Var::GradTarget& dweight) {
  cpu::embedding_bwd(ctx, dy, tokens, dweight.tensor, dweight.accumulate);
}

Var embedding(Tape& tape, const std::vector<int32_t>& tokens, const Shape& leading, const Var& weight) {
  Context& ctx = tape.context();
  Var y = tape.output(embedding_fwd(ctx, tokens, leading, weight.value()), {weight});
  tape.record({weight}, {y},
              [&ctx, tokens, weight, y] { embedding_bwd(ctx, y.grad(), tokens, weight.grad_target(ctx)); });
  return y;
}

}  // namespace spanwise
