#include "core/ops/views.h"

#include "core/dispatch.h"

#include <numeric>

namespace spanwise {

Var reshape(Tape& tape, const Var& x, const Shape& shape) {
  Context& ctx = tape.context();
  const Var out = tape.output(x.value().reshape(shape), {x});
  tape.record({x}, {out}, [&ctx, x, out] { x.add_grad(ctx, out.grad().reshape(x.shape())); });
  return out;
}

std::vector<Var> split_columns(Tape& tape, const Var& x, const std::vector<int64_t>& sizes) {
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t(0));
  SPANWISE_CHECK(total == x.dim(-1), "split_columns: widths add up to {}, x is {}", total, x.shape().str());
  std::vector<Var> blocks;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    SPANWISE_CHECK(size > 0, "split_columns: width {} of block {}", size, blocks.size());
    blocks.push_back(tape.output(x.value().column_range(begin, begin + size), {x}));
    begin += size;
  }
  Context& ctx = tape.context();
  tape.record({x}, blocks, [&ctx, x, blocks, sizes] {
    std::vector<Tensor> grads;
    for (const Var& block : blocks) grads.push_back(block.grad());
    const Tensor dx = Tensor::empty(ctx, x.shape(), x.value().dtype());
    SPANWISE_DISPATCH(ctx, join_columns, ctx, grads, sizes, dx);
    x.add_grad(ctx, dx);
  });
  return blocks;
}

}  // namespace spanwise
