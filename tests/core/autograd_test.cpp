#include "core/autograd.h"

#include "core/ops/accumulate.h"
#include "core/ops/linear.h"
#include "core/ops/pointwise.h"
#include "core/ops/rms_norm.h"
#include "core/ops/views.h"
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

int64_t live_bytes() {
  return int64_t(test_context().memory().live_bytes);
}

TEST(Autograd, ValuesThatBackwardDoesNotReadGoWithTheirVar) {
  Context& ctx = test_context();
  const Tensor x = random_tensor({256, 64}, DType::kF64, "x"), w = random_tensor({64, 64}, DType::kF64, "w");
  const Tensor seed = random_tensor({256, 64}, DType::kF64, "seed");
  const Var input(x, true), weight(w, true);
  Tape tape(ctx);
  const int64_t before = live_bytes();
  // A product reads its operand in backward, not its result; a sum neither.
  Var y = add(tape, linear(tape, input, weight), input);
  EXPECT_EQ(live_bytes() - before, int64_t(x.bytes()));
  y = add(tape, y, y);
  EXPECT_EQ(live_bytes() - before, int64_t(x.bytes()));
  tape.backward({y}, {seed});
  EXPECT_EQ(to_doubles(input.grad()).size(), size_t(x.numel()));
}

TEST(Autograd, RecomputedValuesAreDroppedAndComputedOnceMore) {
  Context& ctx = test_context();
  const Tensor x = random_tensor({256, 64}, DType::kF64, "x"),
               seed = random_tensor({256, 64}, DType::kF64, "s");
  int computed = 0;
  const auto doubled = [&](const Tensor& of) {
    ++computed;
    Tensor y = Tensor::zeros(ctx, of.shape(), of.dtype());
    for (int i = 0; i < 2; ++i) accumulate(ctx, y, of);
    return y;
  };
  const Var input(x, true);
  Tape tape(ctx);
  const int64_t before = live_bytes();
  Var y = tape.output(doubled(input.value()), {input});
  tape.recompute_by(y, [doubled, of = input.saved()] { return doubled(of.get()); });
  // Two readers, one through a view: the value is there for both after one recomputation.
  const Var square = multiply(tape, y, reshape(tape, y, {256, 64}));
  const Saved kept = y.saved();
  EXPECT_EQ(kept.get().raw(), y.value().raw());
  EXPECT_EQ(computed, 1);
  y = Var();
  EXPECT_EQ(live_bytes() - before, int64_t(x.bytes()));  // of the square
  const Tensor again = kept.get();
  EXPECT_EQ(computed, 2);
  EXPECT_EQ(kept.get().raw(), again.raw());
  EXPECT_EQ(computed, 2);
  EXPECT_TRUE(bitwise_equal(again, doubled(x)));
}

TEST(Autograd, NothingIsDroppedWhileASegmentIsRecomputed) {
  Tape recording(test_context()), recomputing(test_context(), Tape::Mode::kRecompute),
      counting(test_context(), Tape::Mode::kCount), inferring(test_context(), Tape::Mode::kInference);
  const Var x(random_tensor({4, 8}, DType::kF64, "x"), true);
  EXPECT_TRUE(rms_norm(recording, x, Var(), 1e-6).saved().recomputable());
  for (Tape* tape : {&recomputing, &counting, &inferring})
    EXPECT_FALSE(rms_norm(*tape, x, Var(), 1e-6).saved().recomputable());
}

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

// Two ops read x, whose gradient is sent on; each has a parameter.
std::vector<std::string> backward_of_two_readers(bool travels) {
  Context& ctx = test_context();
  std::vector<std::string> log;
  const auto ones = [&] { return random_tensor({1}, DType::kF64, "x"); };
  const Var source(ones(), true);
  Tape tape(ctx);
  const Var x = tape.output(ones(), {source});
  if (travels) x.gradient_travels();
  tape.record({source}, {x}, [&] {
    log.push_back("send");
    tape.work_meanwhile();
    log.push_back("receive");
  });
  std::vector<Var> outputs;
  for (const std::string name : {"1", "2"}) {
    const Var weight = Var::make_parameter(ones(), Tensor::zeros(ctx, {1}, DType::kF64));
    weight.set_hook([&log, name](const Var&) { log.push_back("hook" + name); });
    outputs.push_back(tape.output(ones(), {x, weight}));
    tape.record(
        {x, weight}, {outputs.back()},
        [&, name] {
          log.push_back("dx" + name);
          x.add_grad(ctx, ones());
        },
        [&, name, dy = outputs.back().adjoint()] {
          log.push_back("dw" + name);
          EXPECT_TRUE(dy.grad().defined());
        });
  }
  tape.backward(outputs, {ones(), ones()});
  EXPECT_FALSE(outputs[0].grad().defined());
  return log;
}

TEST(Autograd, GradientsOfParametersAreDeferredToAGradientThatTravels) {
  EXPECT_EQ(backward_of_two_readers(false),
            (std::vector<std::string>{"dx2", "dw2", "hook2", "dx1", "dw1", "hook1", "send", "receive"}));
  EXPECT_EQ(backward_of_two_readers(true),
            (std::vector<std::string>{"dx2", "dx1", "send", "dw2", "hook2", "dw1", "hook1", "receive"}));
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

// An op that receives from elsewhere: y = x · received, where every call receives another number.
struct Receiver {
  int calls = 0;
  std::vector<double> seen;  // what forwards used, first and recomputed

  Var scaled(Tape& tape, const Var& x) {
    Context& ctx = test_context();
    const Tensor factor = tape.once([&] { return Tensor::from<double>(ctx, {1}, {double(++calls)}); });
    const double f = factor.data<double>()[0];
    seen.push_back(f);
    const auto times = [&ctx, f](const Tensor& t) {
      Tensor out = Tensor::empty(ctx, t.shape(), t.dtype());
      for (int64_t i = 0; i < t.numel(); ++i) out.data<double>()[i] = f * t.data<double>()[i];
      return out;
    };
    const Var y = tape.output(times(x.value()), {x});
    tape.record({x}, {y}, [&ctx, x, y, times] { x.add_grad(ctx, times(y.grad())); });
    return y;
  }
};

// Two receiving ops in every one of `depth` checkpoints inside each other, one in the innermost.
Var receive_nested(Receiver& receiver, Tape& tape, const Var& x, int depth) {
  const Var y = receiver.scaled(tape, x);
  if (depth == 0) return y;
  const Var z = checkpoint(tape,
                           [&receiver, depth](Tape& t, const std::vector<Var>& in) {
                             return std::vector<Var>{receive_nested(receiver, t, in[0], depth - 1)};
                           },
                           {y})[0];
  return receiver.scaled(tape, z);
}

TEST(Autograd, ARecomputedSegmentReceivesOnceHoweverDeep) {
  for (const int depth : {0, 1, 2, 3}) {
    Receiver receiver;
    const Var x(random_tensor({3}, DType::kF64, "x"), true);
    Tape tape(test_context());
    const Var y = receive_nested(receiver, tape, x, depth);
    tape.backward({y}, {random_tensor({3}, DType::kF64, "seed")});
    const int ops = 2 * depth + 1;
    EXPECT_EQ(receiver.calls, ops);
    double product = 1;
    for (int i = 1; i <= ops; ++i) product *= i;
    EXPECT_NEAR(to_doubles(x.grad())[1], product * to_doubles(random_tensor({3}, DType::kF64, "seed"))[1],
                1e-9);
    if (depth == 1) {
      EXPECT_EQ(receiver.seen, (std::vector<double>{1, 2, 3, 2}));
    }
  }
}

TEST(Autograd, ReceivingOtherwiseWhenRecomputedIsAnError) {
  for (const int recomputed : {0, 2, -1}) {  // receives less, more, or another type
    bool first = true;
    const auto section = [&](Tape& tape, const std::vector<Var>& in) {
      const int count = first ? 1 : std::abs(recomputed);
      for (int i = 0; i < count; ++i) {
        if (first || recomputed > 0) {
          tape.once([] { return 1; });
        } else {
          tape.once([] { return 1.0; });
        }
      }
      first = false;
      return std::vector<Var>{rms_norm(tape, in[0], Var(), 1e-6)};
    };
    const Var x(random_tensor({2, 4}, DType::kF64, "x"), true);
    Tape tape(test_context());
    const Var y = checkpoint(tape, section, {x})[0];
    EXPECT_THROW(tape.backward({y}, {random_tensor({2, 4}, DType::kF64, "seed")}), Error) << recomputed;
  }
}

TEST(Autograd, WhatWasReceivedIsFreedWhenRecomputed) {
  Context& ctx = test_context();
  const size_t before = ctx.memory().live_bytes;
  {
    const Var x(random_tensor({2, 4}, DType::kF64, "x"), true);
    Tape tape(ctx);
    const Var y = checkpoint(tape,
                             [&ctx](Tape& t, const std::vector<Var>& in) {
                               t.once([&ctx] { return Tensor::zeros(ctx, {1 << 16}, DType::kF64); });
                               return std::vector<Var>{rms_norm(t, in[0], Var(), 1e-6)};
                             },
                             {x})[0];
    EXPECT_GT(ctx.memory().live_bytes, before + (1 << 19));
    tape.backward({y}, {random_tensor({2, 4}, DType::kF64, "seed")});
    EXPECT_LT(ctx.memory().live_bytes, before + (1 << 19));
  }
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
