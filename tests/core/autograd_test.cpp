#include "core/autograd.h"

#include "core/ops/rms_norm.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

Var norm_chain(Tape& tape, Var x, const Var& w, int steps) {
  Var residual;
  for (int i = 0; i < steps; ++i) {
    const AddRmsNorm out = add_rms_norm(tape, x, residual, w, 1e-6);
    residual = out.sum;
    x = out.normed;
  }
  return x;
}

struct Chain {
  Tensor x = random_tensor({5, 8}, DType::kF64, "x"), w = random_tensor({8}, DType::kF64, "w");
  Tensor seed = random_tensor({5, 8}, DType::kF64, "seed");

  // Gradients of x and w, and how often and when the hook of w fired (records left on the tape).
  struct Result {
    Tensor value, dx, dw;
    std::vector<size_t> hook_records;
  };
  Result run(bool checkpointed) const {
    Context& ctx = test_context();
    Result result;
    result.dw = Tensor::zeros(ctx, w.shape(), DType::kF64);
    Var input(x, true);
    const Var weight = Var::make_parameter(w, result.dw);
    Tape tape(ctx);
    weight.set_hook([&](const Var&) { result.hook_records.push_back(tape.num_records()); });
    Var y = norm_chain(tape, input, weight, 2);
    if (checkpointed) {
      y = checkpoint(tape,
                     [weight](Tape& t, const std::vector<Var>& in) {
                       return std::vector<Var>{norm_chain(t, in[0], weight, 3)};
                     },
                     {y})[0];
    } else {
      y = norm_chain(tape, y, weight, 3);
    }
    result.value = y.value();
    tape.backward({y}, {seed});
    result.dx = input.grad();
    return result;
  }
};

TEST(Autograd, SharedGradientsAreNotOverwritten) {
  // sum = x + residual hands one gradient tensor to both; adding to one of them must not change the other.
  Context& ctx = test_context();
  const Var a(random_tensor({2, 4}, DType::kF64, "a"), true),
      b(random_tensor({2, 4}, DType::kF64, "b"), true);
  const Tensor g = random_tensor({2, 4}, DType::kF64, "g"), h = random_tensor({2, 4}, DType::kF64, "h");
  a.add_grad(ctx, g);
  b.add_grad(ctx, g);
  a.add_grad(ctx, h);
  EXPECT_TRUE(bitwise_equal(b.grad(), g));
  EXPECT_EQ(to_doubles(a.grad())[3], to_doubles(g)[3] + to_doubles(h)[3]);
}

TEST(Autograd, CheckpointingIsBitwiseEqual) {
  const Chain chain;
  const auto plain = chain.run(false), checkpointed = chain.run(true);
  EXPECT_TRUE(bitwise_equal(plain.value, checkpointed.value));
  EXPECT_TRUE(bitwise_equal(plain.dx, checkpointed.dx));
  EXPECT_TRUE(bitwise_equal(plain.dw, checkpointed.dw));
}

TEST(Autograd, AParametersHookFiresOnceAfterItsFirstUse) {
  const Chain chain;
  EXPECT_EQ(chain.run(false).hook_records, std::vector<size_t>{0});
  EXPECT_EQ(chain.run(true).hook_records, std::vector<size_t>{0});
}

TEST(Autograd, CheckpointingHoldsLessMemory) {
  Context& ctx = test_context();
  const Tensor x = random_tensor({64, 256}, DType::kF64, "x"), w = random_tensor({256}, DType::kF64, "w");
  const auto held = [&](bool checkpointed) {
    Var input(x, true), weight(w, true);
    Tape tape(ctx);
    const size_t before = ctx.memory().live_bytes;
    Var y;
    if (checkpointed) {
      y = checkpoint(tape,
                     [weight](Tape& t, const std::vector<Var>& in) {
                       return std::vector<Var>{norm_chain(t, in[0], weight, 8)};
                     },
                     {input})[0];
    } else {
      y = norm_chain(tape, input, weight, 8);
    }
    return ctx.memory().live_bytes - before;
  };
  EXPECT_LT(held(true) * 4, held(false));
}

TEST(Autograd, InferenceRecordsNothing) {
  Tape tape(test_context(), Tape::Mode::kInference);
  const Var x(random_tensor({2, 4}, DType::kF64, "x"), true);
  const Var y = rms_norm(tape, x, Var(), 1e-6);
  EXPECT_FALSE(y.requires_grad());
  EXPECT_EQ(tape.num_records(), 0u);
}

}  // namespace
}  // namespace spanwise::testing
