#include "tests/testing/dry_testing.h"

#include <cstring>
#include <utility>

namespace spanwise::testing {

namespace {

Tensor copy_on(Context& ctx, const Tensor& t) {
  if (!t.defined()) return {};
  const int64_t width = t.row_elems(), rows = t.contiguous() ? 1 : t.numel() / width,
                stride = t.contiguous() ? t.numel() : t.row_stride(width);
  const Tensor memory = Tensor::empty(ctx, {rows, stride}, t.dtype());
  const Tensor copy =
      t.contiguous() ? memory.reshape(t.shape()) : memory.column_range(0, width).reshape(t.shape());
  if (ctx.dry()) return copy;
  const size_t size = size_of(t.dtype());
  for (int64_t r = 0; r < rows && t.numel() > 0; ++r) {
    std::memcpy(static_cast<char*>(copy.raw()) + size_t(r * stride) * size,
                static_cast<const char*>(t.raw()) + size_t(r * stride) * size,
                size_t(t.contiguous() ? t.numel() : width) * size);
  }
  return copy;
}

}  // namespace

RunCost cost_of(Context& ctx, const OpFunction& op, const std::vector<Tensor>& operands) {
  std::vector<Var> leaves;
  for (const Tensor& t : operands) leaves.push_back(t.defined() ? Var(copy_on(ctx, t), true) : Var());
  RunCost cost;
  Tape tape(ctx);
  ctx.reset_peak();
  ctx.reset_work();
  std::vector<Var> outputs = op(tape, leaves);
  cost.forward_peak = ctx.memory().peak_bytes;
  cost.forward_live = ctx.memory().live_bytes;
  cost.forward = ctx.work();
  std::erase_if(outputs, [](const Var& v) { return !v.defined() || !v.requires_grad(); });
  std::vector<Tensor> ones;
  for (const Var& output : outputs) {
    ones.push_back(Tensor::zeros(ctx, output.shape(), output.dtype()));
    if (output.dtype() != DType::kBF16) ones.back().fill(1.0);
  }
  ctx.reset_peak();
  tape.backward(outputs, ones);
  cost.backward_peak = ctx.memory().peak_bytes;
  cost.backward_live = ctx.memory().live_bytes;
  cost.backward = ctx.work();
  return cost;
}

void expect_equal_costs(const RunCost& dry, const RunCost& real) {
  EXPECT_EQ(dry.forward_peak, real.forward_peak);
  EXPECT_EQ(dry.forward_live, real.forward_live);
  EXPECT_EQ(dry.backward_peak, real.backward_peak);
  EXPECT_EQ(dry.backward_live, real.backward_live);
  for (const auto& [a, b] : {std::pair{dry.forward, real.forward}, {dry.backward, real.backward}}) {
    EXPECT_EQ(a.flops, b.flops);
    EXPECT_EQ(a.recomputed_flops, b.recomputed_flops);
    EXPECT_EQ(a.bytes, b.bytes);
  }
}

void check_dry(const OpFunction& op, const std::vector<Tensor>& operands) {
  const int threads = test_context().num_threads();
  Context real({.num_threads = threads, .poison = true}), dry({.num_threads = threads, .dry = true});
  const RunCost of_real = cost_of(real, op, operands), of_dry = cost_of(dry, op, operands);
  SCOPED_TRACE("a dry run beside a real one");
  expect_equal_costs(of_dry, of_real);
}

}  // namespace spanwise::testing
