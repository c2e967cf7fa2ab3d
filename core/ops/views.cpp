#include "core/ops/views.h"

#include "core/dispatch.h"

#include <numeric>

namespace spanwise {

namespace work {
Work join_columns(const Context&, const std::vector<Tensor>&, const std::vector<int64_t>&,
                  const Tensor& out) {
  return {.bytes = 2 * bytes_of(out)};
}
}  // namespace work
namespace dry {
constexpr NoTemporaries join_columns;
}

Var reshape(Tape& tape, const Var& x, const Shape& shape) {
  Context& ctx = tape.context();
  const Var out = tape.view(x, [shape](const Tensor& value) { return value.reshape(shape); });
  tape.record({x}, {out}, [&ctx, x = x.adjoint(), out = out.adjoint()] {
    x.add_grad(ctx, out.grad().reshape(x.shape()));
  });
  return out;
}

std::vector<Var> split_columns(Tape& tape, const Var& x, const std::vector<int64_t>& sizes) {
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t(0));
  SPANWISE_CHECK(total == x.dim(-1), "split_columns: widths add up to {}, x is {}", total, x.shape().str());
  std::vector<Var> blocks;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    SPANWISE_CHECK(size > 0, "split_columns: width {} of block {}", size, blocks.size());
    blocks.push_back(
        tape.view(x, [begin, size](const Tensor& value) { return value.column_range(begin, begin + size); }));
    begin += size;
  }
  Context& ctx = tape.context();
  const std::vector<Adjoint> outputs(blocks.begin(), blocks.end());
  tape.record({x}, outputs, [&ctx, x = x.adjoint(), outputs, sizes] {
    std::vector<Tensor> grads;
    for (const Adjoint& block : outputs) grads.push_back(block.grad());
    const Tensor dx = Tensor::empty(ctx, x.shape(), x.dtype());
    SPANWISE_DISPATCH(ctx, join_columns, ctx, grads, sizes, dx);
    x.add_grad(ctx, dx);
  });
  return blocks;
}

}  // namespace spanwise
