#include "core/ops/short_conv.h"

#include <algorithm>
#include <cmath>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

// Operands: x, weight, bias, initial_state. Outputs: out, final_state.
OpFunction conv_op(const SequenceLayout& layout, Activation activation, const L2Heads& heads = {}) {
  return [layout, activation, heads](Tape& tape, const std::vector<Var>& v) {
    const ShortConvResult r = short_conv(tape, v[0], v[1], v[2], layout, activation, v[3], heads);
    return std::vector<Var>{r.out, r.final_state};
  };
}

std::vector<Tensor> operands(int64_t batch, int64_t length, int64_t channels, int64_t width) {
  return {random_tensor({batch, length, channels}, DType::kF64, "x"),
          random_tensor({channels, 1, width}, DType::kF64, "weight"),
          random_tensor({channels}, DType::kF64, "bias"),
          random_tensor({batch, width - 1, channels}, DType::kF64, "initial")};
}

// The definition, one row at a time: a document's inputs with zeros or the initial state before them.
struct Plain {
  Tensor out, final_state;
};
Plain plain_conv(const std::vector<Tensor>& in, const std::vector<int64_t>& starts, Activation activation) {
  const int64_t B = in[0].dim(0), T = in[0].dim(1), C = in[0].dim(2), W = in[1].dim(2);
  const auto x = to_doubles(in[0]), w = to_doubles(in[1]);
  const auto bias = in[2].defined() ? to_doubles(in[2]) : std::vector<double>(size_t(C), 0.0);
  const auto initial =
      in[3].defined() ? to_doubles(in[3]) : std::vector<double>(size_t(B * (W - 1) * C), 0.0);
  Plain result{Tensor::empty(test_context(), {B, T, C}, DType::kF64),
               Tensor::empty(test_context(), {B, W - 1, C}, DType::kF64)};
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t c = 0; c < C; ++c) {
      std::vector<double> history(size_t(W - 1));  // oldest first
      for (int64_t k = 0; k < W - 1; ++k) history[k] = initial[(b * (W - 1) + k) * C + c];
      for (int64_t t = 0; t < T; ++t) {
        if (std::count(starts.begin(), starts.end(), b * T + t))
          std::fill(history.begin(), history.end(), 0.0);
        history.push_back(x[(b * T + t) * C + c]);
        double pre = bias[c];
        for (int64_t i = 0; i < W; ++i) pre += w[c * W + i] * history[i];
        history.erase(history.begin());
        if (activation == Activation::kSiLU) pre /= 1 + std::exp(-pre);
        result.out.data<double>()[(b * T + t) * C + c] = pre;
      }
      for (int64_t k = 0; k < W - 1; ++k)
        result.final_state.data<double>()[(b * (W - 1) + k) * C + c] = history[k];
    }
  }
  return result;
}

void expect_plain(const std::vector<Tensor>& in, const std::vector<int64_t>& starts, Activation activation) {
  const SequenceLayout layout(in[0].dim(0), in[0].dim(1), starts);
  const auto outputs = evaluate(conv_op(layout, activation), in);
  const Plain expected = plain_conv(in, starts, activation);
  EXPECT_TRUE(near(outputs[0], expected.out, kTolerance64.value));
  EXPECT_TRUE(near(outputs[1], expected.final_state, kTolerance64.value));
}

// Documents of 1, 2, 3, 4, 5 tokens, the first two tokens continuing (or not) an earlier one.
std::vector<int64_t> short_documents(bool continues) {
  std::vector<int64_t> all;
  if (!continues) all.push_back(0);
  for (int64_t start : {2, 3, 5, 8, 12}) all.push_back(start);
  for (int64_t start : {2, 3, 5, 8, 12}) all.push_back(17 + start);  // the second row always continues
  return all;
}

TEST(ShortConv, EqualsTheFormulaForEveryWidthAndLength) {
  for (const int64_t width : {2, 3, 4}) {
    for (const int64_t length : {1, 2, 3, 4, 7, 64, 65, 130}) {
      SCOPED_TRACE(fmt::format("width {}, length {}", width, length));
      auto in = operands(2, length, 5, width);
      expect_plain(in, {}, Activation::kSiLU);
      expect_plain(in, {0, length}, Activation::kNone);
      in[2] = in[3] = Tensor();
      expect_plain(in, {}, Activation::kNone);
    }
  }
}

TEST(ShortConv, EqualsTheFormulaForManyChannels) {
  expect_plain(operands(1, 70, 300, 4), {0, 66}, Activation::kSiLU);
}

TEST(ShortConv, EqualsTheFormulaWithABoundaryAtEveryOffset) {
  const int64_t length = 67;
  const auto in = operands(2, length, 3, 4);
  for (int64_t start = 0; start < 2 * length; ++start) {
    SCOPED_TRACE(start);
    expect_plain(in, {start}, Activation::kSiLU);
  }
}

TEST(ShortConv, EqualsTheFormulaForDocumentsOfOneToFiveTokens) {
  for (const int64_t width : {2, 3, 4}) {
    const auto in = operands(2, 17, 6, width);
    expect_plain(in, short_documents(true), Activation::kSiLU);
    expect_plain(in, short_documents(false), Activation::kSiLU);
  }
  // The last document shorter than the state, with and without a start at the row's first token.
  expect_plain(operands(1, 9, 2, 4), {7}, Activation::kNone);
  expect_plain(operands(1, 2, 2, 4), {0, 1}, Activation::kNone);
}

TEST(ShortConv, GradientsEqualFiniteDifferences) {
  for (const int64_t length : {1, 2, 17, 67}) {
    SCOPED_TRACE(length);
    for (const Activation activation : {Activation::kNone, Activation::kSiLU}) {
      auto in = operands(2, length, 3, 4);
      check_gradients(conv_op(SequenceLayout(2, length), activation), in);
      check_gradients(conv_op(SequenceLayout(2, length, {0, length}), activation), in);
      in[2] = in[3] = Tensor();
      check_gradients(conv_op(SequenceLayout(2, length), activation), in);
    }
  }
}

TEST(ShortConv, GradientsEqualFiniteDifferencesForPackedDocuments) {
  for (const int64_t width : {2, 3, 4}) {
    for (const bool continues : {true, false}) {
      check_gradients(conv_op(SequenceLayout(2, 17, short_documents(continues)), Activation::kSiLU),
                      operands(2, 17, 3, width), {.max_elements = 102});
    }
  }
  for (int64_t start = 60; start < 67; ++start) {
    check_gradients(conv_op(SequenceLayout(1, 67, {start}), Activation::kSiLU), operands(1, 67, 2, 4),
                    {.max_elements = 134});
  }
}

TEST(ShortConv, Fp32LiesWithinTheTable) {
  check_fp32(conv_op(SequenceLayout(2, 150, {3, 70, 211}), Activation::kSiLU), operands(2, 150, 20, 4));
}

TEST(ShortConv, SplittingASequenceAnywhereChangesNothing) {
  const int64_t length = 70;
  const std::vector<int64_t> starts{12, 13, 40, 66};
  const auto in = operands(1, length, 5, 4);
  const auto whole = evaluate(conv_op(SequenceLayout(1, length, starts), Activation::kSiLU), in);
  for (int64_t cut = 1; cut < length; ++cut) {
    SCOPED_TRACE(cut);
    std::vector<int64_t> left, right;
    for (const int64_t s : starts) s < cut ? left.push_back(s) : right.push_back(s - cut);
    const Tensor rows = in[0].reshape({length, 5});
    const Tensor x1 = rows.row_range(0, cut).reshape({1, cut, 5}),
                 x2 = rows.row_range(cut, length).reshape({1, length - cut, 5});
    const auto first =
        evaluate(conv_op(SequenceLayout(1, cut, left), Activation::kSiLU), {x1, in[1], in[2], in[3]});
    const auto second = evaluate(conv_op(SequenceLayout(1, length - cut, right), Activation::kSiLU),
                                 {x2, in[1], in[2], first[1]});
    const Tensor out = whole[0].reshape({length, 5});
    EXPECT_TRUE(bitwise_equal(first[0].reshape({cut, 5}), out.row_range(0, cut)));
    EXPECT_TRUE(bitwise_equal(second[0].reshape({length - cut, 5}), out.row_range(cut, length)));
    EXPECT_TRUE(bitwise_equal(second[1], whole[1]));
  }
}

TEST(ShortConv, TokenByTokenEqualsTheWholeSequence) {
  const int64_t length = 9;
  const auto in = operands(1, length, 5, 4);
  const auto whole = evaluate(conv_op(SequenceLayout(1, length), Activation::kSiLU), in);
  Tensor state = in[3];
  for (int64_t t = 0; t < length; ++t) {
    const Tensor token = in[0].reshape({length, 5}).row_range(t, t + 1).reshape({1, 1, 5});
    const auto step =
        evaluate(conv_op(SequenceLayout(1, 1), Activation::kSiLU), {token, in[1], in[2], state});
    EXPECT_TRUE(bitwise_equal(step[0].reshape({1, 5}), whole[0].reshape({length, 5}).row_range(t, t + 1)));
    state = step[1];
  }
  EXPECT_TRUE(bitwise_equal(state, whole[1]));
}

TEST(ShortConv, NothingLeaksAcrossADocumentStart) {
  const int64_t length = 24, start = 10;
  auto in = operands(1, length, 4, 4);
  const OpFunction op = conv_op(SequenceLayout(1, length, {start}), Activation::kSiLU);
  const auto before = evaluate(op, in);
  const auto grads_before = gradients(op, in);
  // Other inputs before the start change nothing behind it; other inputs behind change no gradient before.
  auto left = in, right = in;
  left[0] = Tensor::empty(test_context(), in[0].shape(), DType::kF64);
  right[0] = Tensor::empty(test_context(), in[0].shape(), DType::kF64);
  left[0].copy_from(in[0]);
  right[0].copy_from(in[0]);
  std::fill_n(left[0].data<double>(), start * 4, 7.5);
  std::fill_n(right[0].data<double>() + start * 4, (length - start) * 4, 7.5);
  const auto rows = [&](const Tensor& t, int64_t begin, int64_t end) {
    return t.reshape({length, 4}).row_range(begin, end);
  };
  const auto with_left = evaluate(op, left), with_right = evaluate(op, right);
  EXPECT_TRUE(bitwise_equal(rows(with_left[0], start, length), rows(before[0], start, length)));
  EXPECT_TRUE(bitwise_equal(with_left[1], before[1]));
  EXPECT_FALSE(bitwise_equal(rows(with_left[0], 0, start), rows(before[0], 0, start)));
  EXPECT_TRUE(bitwise_equal(rows(with_right[0], 0, start), rows(before[0], 0, start)));
  EXPECT_TRUE(
      bitwise_equal(rows(gradients(op, left)[0], start, length), rows(grads_before[0], start, length)));
  EXPECT_TRUE(bitwise_equal(rows(gradients(op, right)[0], 0, start), rows(grads_before[0], 0, start)));
  // A document alone in its row gives the same numbers.
  const Tensor tail = rows(in[0], start, length).reshape({1, length - start, 4});
  const auto alone =
      evaluate(conv_op(SequenceLayout(1, length - start), Activation::kSiLU), {tail, in[1], in[2], Tensor()});
  EXPECT_TRUE(bitwise_equal(alone[0].reshape({length - start, 4}), rows(before[0], start, length)));
}

TEST(ShortConv, ReadsColumnBlocks) {
  auto in = operands(2, 20, 6, 4);
  in[0] = random_tensor({2, 20, 17}, DType::kF64, "wide").column_range(5, 11);
  const OpFunction op = conv_op(SequenceLayout(2, 20, {7, 28}), Activation::kSiLU);
  const auto out = evaluate(op, in), grads = gradients(op, in);
  in[0] = in[0].to_contiguous(test_context());
  const auto out_copy = evaluate(op, in), grads_copy = gradients(op, in);
  for (size_t i = 0; i < out.size(); ++i) EXPECT_TRUE(bitwise_equal(out[i], out_copy[i]));
  for (size_t i = 0; i < grads.size(); ++i) EXPECT_TRUE(bitwise_equal(grads[i], grads_copy[i]));
}

TEST(ShortConv, GradientsDoNotDependOnTheThreadCount) {
  const auto in = operands(2, 300, 10, 4);
  std::vector<std::vector<Tensor>> results;
  for (const int threads : {1, 3}) {
    Context ctx({.num_threads = threads});
    Tape tape(ctx);
    std::vector<Var> leaves;
    for (const Tensor& t : in) leaves.emplace_back(t, true);
    const ShortConvResult r = short_conv(tape, leaves[0], leaves[1], leaves[2],
                                         SequenceLayout(2, 300, {5, 77}), Activation::kSiLU, leaves[3]);
    tape.backward({r.out}, {random_tensor(r.out.shape(), DType::kF64, "seed")});
    std::vector<Tensor> grads;
    for (const Var& leaf : leaves) grads.push_back(leaf.grad());
    results.push_back(grads);
  }
  for (size_t i = 0; i < in.size(); ++i) EXPECT_TRUE(bitwise_equal(results[0][i], results[1][i])) << i;
}

TEST(ShortConv, DividesHeadsByTheirLength) {
  const SequenceLayout layout(2, 19, {0, 7, 25});
  const L2Heads heads{.dim = 4, .eps = 0.3};
  const auto in = operands(2, 19, 12, 4);
  const auto divided = evaluate(conv_op(layout, Activation::kSiLU, heads), in);
  const auto plain = evaluate(conv_op(layout, Activation::kSiLU), in);
  EXPECT_EQ(divided[0].shape(), plain[0].shape());
  const auto z = to_doubles(plain[0]), y = to_doubles(divided[0]);
  for (size_t head = 0; head < z.size(); head += 4) {
    double squares = heads.eps;
    for (size_t c = head; c < head + 4; ++c) squares += z[c] * z[c];
    for (size_t c = head; c < head + 4; ++c) EXPECT_NEAR(y[c], z[c] / std::sqrt(squares), 1e-14);
  }
  EXPECT_TRUE(bitwise_equal(divided[1], plain[1]));
  check_gradients(conv_op(layout, Activation::kSiLU, heads), in, {.max_elements = 120});
}

TEST(ShortConv, RefusesWhatItDoesNotSupport) {
  const auto in = operands(1, 4, 2, 4);
  const Tensor wide = random_tensor({2, 1, 5}, DType::kF64, "w");
  EXPECT_THROW(evaluate(conv_op(SequenceLayout(1, 4), Activation::kNone), {in[0], wide, in[2], Tensor()}),
               Error);
  EXPECT_THROW(evaluate(conv_op(SequenceLayout(1, 5), Activation::kNone), in), Error);
  EXPECT_THROW(evaluate(conv_op(SequenceLayout(1, 4), Activation::kReLU), in), Error);
  EXPECT_THROW(evaluate(conv_op(SequenceLayout(1, 4), Activation::kSiLU, {.dim = 3}), in), Error);
}

}  // namespace
}  // namespace spanwise::testing
