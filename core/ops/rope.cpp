#include "core/ops/rope.h"

#include <algorithm>
#include <cmath>

namespace spanwise {

RopeTable rope_table(Context& ctx, const std::vector<int64_t>& positions, double theta, int64_t rotary_dim,
                     DType dtype) {
  SPANWISE_CHECK(rotary_dim >= 2 && rotary_dim % 2 == 0, "rotary_dim={} must be even and at least 2",
                 rotary_dim);
  SPANWISE_CHECK(theta > 0, "theta={} must be positive", theta);
  std::vector<int64_t> distinct = positions;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());

  RopeTable table;
  table.row.reserve(positions.size());
  for (int64_t p : positions)
    table.row.push_back(int32_t(std::lower_bound(distinct.begin(), distinct.end(), p) - distinct.begin()));
  std::vector<double> frequencies;
  for (int64_t i = 0; i < rotary_dim / 2; ++i)
    frequencies.push_back(std::pow(theta, -2.0 * double(i) / double(rotary_dim)));
  table.cos_sin = Tensor::empty(ctx, {int64_t(distinct.size()), rotary_dim}, dtype);
  cpu::rope_table(ctx, distinct, frequencies, table.cos_sin);
  return table;
}

Tensor rope_apply(Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction) {
  Tensor y = Tensor::empty(ctx, x.shape(), x.dtype());
  cpu::rope_apply(ctx, x, table, direction, y);
  return y;
}

Var rope(Tape& tape, const Var& x, const std::vector<int64_t>& positions, double theta, int64_t rotary_dim) {
  Context& ctx = tape.context();
  SPANWISE_CHECK(x.value().num_dims() == 4, "rope takes x [B, T, H, D], got {}", x.shape().str());
  SPANWISE_CHECK(int64_t(positions.size()) == x.dim(0) * x.dim(1), "{} positions for x {}", positions.size(),
                 x.shape().str());
  if (rotary_dim == 0) rotary_dim = x.dim(3);
  SPANWISE_CHECK(rotary_dim <= x.dim(3), "rotary_dim={} exceeds the head dimension {}", rotary_dim, x.dim(3));

  RopeTable table = rope_table(ctx, positions, theta, rotary_dim, x.value().dtype());
  Var y = tape.output(rope_apply(ctx, x.value(), table, RopeDirection::kForward), {x});
  tape.record({x}, {y}, [&ctx, x, y, table = std::move(table)] {
    x.add_grad(ctx, rope_apply(ctx, y.grad(), table, RopeDirection::kBackward));
  });
  return y;
}

}  // namespace spanwise
