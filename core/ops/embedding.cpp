#include "core/ops/embedding.h"

#include "core/dispatch.h"
#include "core/ops/cuda/common/embedding_runs.h"
#include "core/upload.h"

namespace spanwise {

namespace work {
Work embedding_fwd(const Context&, const std::vector<int32_t>&, const Tensor&, const Tensor& y) {
  return {.bytes = 2 * bytes_of(y)};
}
Work embedding_bwd(const Context&, const Tensor& dy, const std::vector<int32_t>&, const Tensor& dweight,
                   bool accumulate) {
  const double rows = double(dy.numel()) * double(size_of(dweight.dtype()));
  return {.bytes = bytes_of(dy) + (accumulate ? 2 * rows : bytes_of(dweight) + rows)};
}
}  // namespace work

namespace dry {

void embedding_fwd(Context& ctx, const std::vector<int32_t>& tokens, const Tensor&, const Tensor& y) {
  if (ctx.device() == Device::kCUDA && y.numel() > 0) upload(ctx, tokens);
}

void embedding_bwd(Context& ctx, const Tensor&, const std::vector<int32_t>& tokens, const Tensor& dweight,
                   bool) {
  if (ctx.device() == Device::kCPU) return;
  const cuda::SortedTokens sorted = cuda::sort_tokens(tokens, dweight.dim(0));
  if (sorted.runs.empty() || dweight.dim(1) == 0) return;
  const Tensor order = upload(ctx, sorted.order), runs = upload(ctx, sorted.runs),
               folds = upload(ctx, sorted.folds);
  Tensor::empty(ctx, {sorted.partials, dweight.dim(1)}, DType::kF32);
}

}  // namespace dry

namespace {

// The ids as rows of the weight, which holds some of the vocabulary; those of other parts fall outside it.
std::vector<int32_t> rows_of(const std::vector<int32_t>& tokens, int64_t vocab, int64_t begin) {
  std::vector<int32_t> rows = tokens;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      fail_user(
          "Token id {} at position {} of the batch is outside the model's vocabulary of {}; use the "
          "tokenizer that the model was made for, or raise the vocabulary size.",
          tokens[i], i, vocab);
    }
    rows[i] = int32_t(tokens[i] - begin);
  }
  return rows;
}

}  // namespace

Tensor embedding_fwd(Context& ctx, const std::vector<int32_t>& tokens, const Shape& leading,
                     const Tensor& weight) {
  SPANWISE_CHECK(weight.num_dims() == 2 && weight.contiguous(),
                 "an embedding weight is a matrix, got shape {}", weight.shape().str());
  SPANWISE_CHECK(int64_t(tokens.size()) == leading.numel(), "{} tokens for shape {}", tokens.size(),
                 leading.str());
  std::vector<int64_t> dims = leading.to_vector();
  dims.push_back(weight.dim(1));
  Tensor y = Tensor::empty(ctx, Shape(dims), weight.dtype());
  SPANWISE_DISPATCH(ctx, embedding_fwd, ctx, tokens, weight, y);
  return y;
}

void embedding_bwd(Context& ctx, const Tensor& dy, const std::vector<int32_t>& tokens,
                   const Var::GradTarget& dweight) {
  SPANWISE_DISPATCH(ctx, embedding_bwd, ctx, dy, tokens, dweight.tensor, dweight.accumulate);
}

Var embedding(Tape& tape, const std::vector<int32_t>& tokens, const Shape& leading, const Var& weight,
              const DimPart& part) {
  Context& ctx = tape.context();
  const std::vector<int32_t> rows =
      rows_of(tokens, part.divided() ? part.whole : weight.dim(0), part.divided() ? part.begin : 0);
  Var y = tape.output(embedding_fwd(ctx, rows, leading, weight.value()), {weight});
  tape.record({weight}, {y}, [&ctx, rows, weight = weight.adjoint(), y = y.adjoint()] {
    embedding_bwd(ctx, y.grad(), rows, weight.grad_target(ctx, accumulation_dtype(weight.dtype())));
  });
  return y;
}

}  // namespace spanwise
