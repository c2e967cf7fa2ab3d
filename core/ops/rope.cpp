#include "core/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/dispatch.h"

namespace spanwise {

namespace work {
Work rope_apply(const Context&, const Tensor& x, const RopeTable&, RopeDirection, const Tensor& y) {
  return {.bytes = bytes_of(x, y)};
}
}  // namespace work
namespace dry {
constexpr NoTemporaries rope_apply;
}

namespace {

// A batch needs one a model; a few batches of different lengths may take turns (training, evaluation).
constexpr size_t kTables = 4;

void fill_cpu_table(Context& ctx, const std::vector<double>& frequencies, RopeTable& table) {
  std::vector<int64_t> distinct = table.positions;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  table.row.reserve(table.positions.size());
  for (int64_t p : table.positions)
    table.row.push_back(int32_t(std::lower_bound(distinct.begin(), distinct.end(), p) - distinct.begin()));
  table.cos_sin = Tensor::empty(ctx, {int64_t(distinct.size()), table.rotary_dim}, table.dtype);
  if (!ctx.dry()) cpu::rope_table(ctx, distinct, frequencies, table.cos_sin);
}

void fill_gpu_table(Context& ctx, const std::vector<double>& frequencies, RopeTable& table) {
  std::vector<double> half_turns;
  for (const double f : frequencies) half_turns.push_back(f / std::numbers::pi);
  std::vector<int32_t> positions;
  for (const int64_t p : table.positions) {
    SPANWISE_CHECK(p >= 0 && p <= INT32_MAX, "position {} is not supported (0 to {} are)", p, INT32_MAX);
    positions.push_back(int32_t(p));
  }
  table.frequencies = Tensor::from(ctx, {int64_t(half_turns.size())}, half_turns);
  table.device_positions = Tensor::from(ctx, {int64_t(positions.size())}, positions);
}

}  // namespace

std::shared_ptr<const RopeTable> RopeTables::get(const std::vector<int64_t>& positions, double theta,
                                                 int64_t rotary_dim, DType dtype) {
  const std::lock_guard lock(mutex_);
  for (const auto& table : tables_) {
    if (table->theta == theta && table->rotary_dim == rotary_dim && table->dtype == dtype &&
        table->positions == positions)
      return table;
  }
  if (tables_.size() == kTables) tables_.erase(tables_.begin());
  return tables_.emplace_back(make(positions, theta, rotary_dim, dtype));
}

std::shared_ptr<const RopeTable> RopeTables::make(const std::vector<int64_t>& positions, double theta,
                                                  int64_t rotary_dim, DType dtype) const {
  SPANWISE_CHECK(rotary_dim >= 2 && rotary_dim % 2 == 0, "rotary_dim={} must be even and at least 2",
                 rotary_dim);
  SPANWISE_CHECK(theta > 0, "theta={} must be positive", theta);
  auto table = std::make_shared<RopeTable>();
  table->positions = positions;
  table->theta = theta;
  table->rotary_dim = rotary_dim;
  table->dtype = dtype;
  std::vector<double> frequencies;
  for (int64_t i = 0; i < rotary_dim / 2; ++i)
    frequencies.push_back(std::pow(theta, -2.0 * double(i) / double(rotary_dim)));
  if (ctx_.device() == Device::kCUDA) {
    fill_gpu_table(ctx_, frequencies, *table);
  } else {
    fill_cpu_table(ctx_, frequencies, *table);
  }
  return table;
}

Tensor rope_apply(Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction) {
  Tensor y = Tensor::empty(ctx, x.shape(), x.dtype());
  SPANWISE_DISPATCH(ctx, rope_apply, ctx, x, table, direction, y);
  return y;
}

Var rope(Tape& tape, const Var& x, const std::vector<int64_t>& positions, double theta, int64_t rotary_dim) {
  Context& ctx = tape.context();
  SPANWISE_CHECK(x.value().num_dims() == 4, "rope takes x [B, T, H, D], got {}", x.shape().str());
  SPANWISE_CHECK(int64_t(positions.size()) == x.dim(0) * x.dim(1), "{} positions for x {}", positions.size(),
                 x.shape().str());
  if (rotary_dim == 0) rotary_dim = x.dim(3);
  SPANWISE_CHECK(rotary_dim <= x.dim(3), "rotary_dim={} exceeds the head dimension {}", rotary_dim, x.dim(3));

  const auto table = ctx.attached<RopeTables>().get(positions, theta, rotary_dim, x.value().dtype());
  Var y = tape.output(rope_apply(ctx, x.value(), *table, RopeDirection::kForward), {x});
  // Backward reads no value: to drop the result saves something only where x is dropped, too.
  if (const Saved of = x.saved(); of.recomputable()) {
    tape.recompute_by(
        y, [&ctx, of, table] { return rope_apply(ctx, of.get(), *table, RopeDirection::kForward); });
  }
  tape.record({x}, {y}, [&ctx, table, x = x.adjoint(), y = y.adjoint()] {
    x.add_grad(ctx, rope_apply(ctx, y.grad(), *table, RopeDirection::kBackward));
  });
  return y;
}

}  // namespace spanwise
