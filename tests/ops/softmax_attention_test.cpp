#include "core/ops/softmax_attention.h"

#include <cmath>
#include <limits>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr double kScale = 0.4;

OpFunction attend(const KeyRanges& ranges) {
  return [=](Tape& tape, const std::vector<Var>& x) {
    return std::vector<Var>{softmax_attention(tape, x[0], x[1], x[2], ranges, kScale)};
  };
}

struct Sizes {
  int64_t batch = 2, queries, keys, heads = 4, kv_heads = 2, key_width = 6, value_width = 5;
};

std::vector<Tensor> operands(const Sizes& s) {
  return {random_tensor({s.batch, s.queries, s.heads, s.key_width}, DType::kF64, "q"),
          random_tensor({s.batch, s.keys, s.kv_heads, s.key_width}, DType::kF64, "k"),
          random_tensor({s.batch, s.keys, s.kv_heads, s.value_width}, DType::kF64, "v")};
}

Tensor plain_attention(const std::vector<Tensor>& qkv, const KeyRanges& ranges) {
  const Tensor &q = qkv[0], &k = qkv[1], &v = qkv[2];
  const int64_t queries = q.dim(1), keys = k.dim(1), heads = q.dim(2), kv_heads = k.dim(2), width = v.dim(3);
  const auto qs = to_doubles(q), ks = to_doubles(k), vs = to_doubles(v);
  Tensor out = Tensor::zeros(test_context(), {q.dim(0), queries, heads, width}, DType::kF64);
  for (int64_t at = 0; at < q.dim(0) * queries * heads; ++at) {
    const int64_t head = at % heads, query = at / heads, row = query / queries;
    const int64_t kv_head = head / (heads / kv_heads);
    std::vector<double> weights;
    double sum = 0;
    for (int64_t j = ranges.begin[query]; j < ranges.end[query]; ++j) {
      double score = 0;
      for (int64_t c = 0; c < q.dim(3); ++c)
        score += qs[at * q.dim(3) + c] * ks[((row * keys + j) * kv_heads + kv_head) * q.dim(3) + c];
      weights.push_back(std::exp(kScale * score));
      sum += weights.back();
    }
    for (size_t w = 0; w < weights.size(); ++w) {
      const int64_t j = ranges.begin[query] + int64_t(w);
      for (int64_t c = 0; c < width; ++c)
        out.data<double>()[at * width + c] +=
            weights[w] / sum * vs[((row * keys + j) * kv_heads + kv_head) * width + c];
    }
  }
  return out;
}

void check(const Sizes& sizes, const KeyRanges& ranges) {
  const std::vector<Tensor> qkv = operands(sizes);
  EXPECT_TRUE(near(evaluate(attend(ranges), qkv)[0], plain_attention(qkv, ranges), kTolerance64.value));
  check_gradients(attend(ranges), qkv, {.max_elements = 12});
}

// Rows of 70 tokens: documents start inside a block of queries, at a row's start and at its last token.
SequenceLayout packed() {
  return SequenceLayout(2, 70, {0, 9, 69, 70 + 33});
}

TEST(SoftmaxAttention, CausalEqualsTheFormulaAndFiniteDifferences) {
  check({.queries = 70, .keys = 70}, causal_key_ranges(SequenceLayout(2, 70), 0));
}

TEST(SoftmaxAttention, PackedDocuments) {
  check({.queries = 70, .keys = 70}, causal_key_ranges(packed(), 0));
}

TEST(SoftmaxAttention, SlidingWindow) {
  check({.queries = 70, .keys = 70}, causal_key_ranges(SequenceLayout(2, 70), 5));
  check({.queries = 70, .keys = 70}, causal_key_ranges(packed(), 12));
}

// Its weight is 1 whatever q and k are: out = v, dv = dout, dq = dk = 0.
TEST(SoftmaxAttention, AQueryOfOneKeyCopiesItsValue) {
  for (int64_t length : {1, 70}) {
    const std::vector<Tensor> qkv = operands({.queries = length, .keys = length, .heads = 2});
    const OpFunction op = attend(causal_key_ranges(SequenceLayout(2, length), 1));
    EXPECT_TRUE(near(evaluate(op, qkv)[0], qkv[2], kTolerance64.value));
    const OpFunction copy = [](Tape&, const std::vector<Var>& x) { return std::vector<Var>{x[2]}; };
    const auto grads = gradients(op, qkv);
    EXPECT_TRUE(near(grads[2], gradients(copy, qkv)[2], kTolerance64.value));
    for (const Tensor& g : {grads[0], grads[1]})
      for (double x : to_doubles(g)) EXPECT_NEAR(x, 0.0, 1e-14);
  }
}

TEST(SoftmaxAttention, SeveralBlocksOfKeys) {
  check({.batch = 1, .queries = 300, .keys = 300, .heads = 2},
        causal_key_ranges(SequenceLayout(1, 300, {20}), 0));
  check({.batch = 1, .queries = 300, .keys = 300, .heads = 1, .kv_heads = 1},
        causal_key_ranges(SequenceLayout(1, 300), 270));
}

TEST(SoftmaxAttention, OneKeyHeadForAllQueryHeads) {
  check({.queries = 33, .keys = 33, .heads = 3, .kv_heads = 1}, causal_key_ranges(SequenceLayout(2, 33), 0));
}

TEST(SoftmaxAttention, AShardOfQueriesReadsMoreKeysThanItHas) {
  // Queries 40..49 of a sequence of 50 keys, and one query that decodes against a cache.
  KeyRanges shard;
  for (int64_t i = 0; i < 20; ++i) {
    shard.begin.push_back(i < 10 ? 0 : 3);
    shard.end.push_back(41 + i % 10);
  }
  check({.queries = 10, .keys = 50}, shard);
  check({.batch = 1, .queries = 1, .keys = 50}, {{2}, {47}});
}

TEST(SoftmaxAttention, AShardEqualsItsPartOfTheWhole) {
  const std::vector<Tensor> qkv = operands({.batch = 1, .queries = 90, .keys = 90});
  const KeyRanges all = causal_key_ranges(SequenceLayout(1, 90), 0);
  const KeyRanges part{{all.begin.begin() + 60, all.begin.end()}, {all.end.begin() + 60, all.end.end()}};
  const Tensor queries = qkv[0].reshape({90, 4, 6}).row_range(60, 90).reshape({1, 30, 4, 6});
  const Tensor whole = evaluate(attend(all), qkv)[0].reshape({90, 4, 5}).row_range(60, 90);
  EXPECT_TRUE(near(evaluate(attend(part), {queries, qkv[1], qkv[2]})[0].reshape({30, 4, 5}), whole,
                   kTolerance64.value));
}

TEST(SoftmaxAttention, AnEmptyRangeGivesZeros) {
  KeyRanges ranges = causal_key_ranges(SequenceLayout(2, 7), 0);
  ranges.begin[3] = ranges.end[3] = 2;
  const std::vector<Tensor> qkv = operands({.queries = 7, .keys = 7});
  const Tensor out = evaluate(attend(ranges), qkv)[0].reshape({14, 20});
  for (int64_t c = 0; c < 20; ++c) EXPECT_EQ(out.data<double>()[3 * 20 + c], 0.0);
  check({.queries = 7, .keys = 7}, ranges);
  check({.batch = 1, .queries = 2, .keys = 3}, {{0, 3}, {0, 3}});
}

TEST(SoftmaxAttention, Fp32LiesWithinTheTable) {
  check_fp32(attend(causal_key_ranges(packed(), 0)), operands({.queries = 70, .keys = 70}));
  check_fp32(attend(causal_key_ranges(SequenceLayout(1, 300), 0)),
             operands({.batch = 1, .queries = 300, .keys = 300}));
}

TEST(SoftmaxAttention, LargeScoresDoNotOverflow) {
  std::vector<Tensor> qkv = operands({.queries = 70, .keys = 70});
  qkv[0] = random_tensor(qkv[0].shape(), DType::kF64, "q", 1000.0);
  const Tensor out = evaluate(attend(causal_key_ranges(packed(), 0)), qkv)[0];
  for (double x : to_doubles(out)) EXPECT_TRUE(std::isfinite(x));
}

TEST(SoftmaxAttention, ReadsColumnBlocksOfAFusedProjection) {
  const Tensor fused = random_tensor({2 * 70, 3 + 4 * 6 + 2 * 6 + 2 * 5}, DType::kF64, "qkv");
  const std::vector<Tensor> blocks{fused.column_range(3, 27).reshape({2, 70, 4, 6}),
                                   fused.column_range(27, 39).reshape({2, 70, 2, 6}),
                                   fused.column_range(39, 49).reshape({2, 70, 2, 5})};
  std::vector<Tensor> copies;
  for (const Tensor& block : blocks) copies.push_back(block.to_contiguous(test_context()));
  const OpFunction op = attend(causal_key_ranges(packed(), 0));
  EXPECT_TRUE(near(evaluate(op, blocks)[0], evaluate(op, copies)[0], kTolerance64.value));
  const auto of_blocks = gradients(op, blocks), of_copies = gradients(op, copies);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(near(of_blocks[i], of_copies[i], kTolerance64.value)) << i;
}

// qkv with `delta` added to token `token` of row 0 in all three.
std::vector<Tensor> perturbed(const std::vector<Tensor>& qkv, int64_t token, double delta) {
  std::vector<Tensor> out;
  for (const Tensor& t : qkv) {
    out.push_back(Tensor::empty(test_context(), t.shape(), t.dtype()));
    out.back().copy_from(t);
    const int64_t width = t.dim(2) * t.dim(3);
    for (int64_t c = 0; c < width; ++c) out.back().data<double>()[token * width + c] += delta;
  }
  return out;
}

Tensor tokens(const Tensor& out, int64_t begin, int64_t end) {
  return out.reshape({out.dim(0) * out.dim(1), out.dim(2), out.dim(3)}).row_range(begin, end);
}

TEST(SoftmaxAttention, NothingLeaksBetweenDocumentsOrFromTheFuture) {
  const std::vector<Tensor> qkv = operands({.queries = 70, .keys = 70});
  const OpFunction op = attend(causal_key_ranges(packed(), 0));
  const Tensor before = evaluate(op, qkv)[0];
  const Tensor document = evaluate(op, perturbed(qkv, 5, 100.0))[0];  // of the document [0, 9)
  EXPECT_TRUE(bitwise_equal(tokens(document, 9, 140), tokens(before, 9, 140)));
  EXPECT_TRUE(bitwise_equal(tokens(document, 0, 5), tokens(before, 0, 5)));
  EXPECT_FALSE(bitwise_equal(tokens(document, 5, 9), tokens(before, 5, 9)));
  const Tensor future = evaluate(op, perturbed(qkv, 40, 100.0))[0];
  EXPECT_TRUE(bitwise_equal(tokens(future, 0, 40), tokens(before, 0, 40)));
  EXPECT_FALSE(bitwise_equal(tokens(future, 41, 69), tokens(before, 41, 69)));
}

TEST(SoftmaxAttention, BlocksThatNoQueryReadsAreNotTouched) {
  // Two documents of 512 tokens: a block of scores between them would carry the first one's NaN.
  const std::vector<Tensor> qkv =
      operands({.batch = 1, .queries = 1024, .keys = 1024, .heads = 1, .kv_heads = 1});
  const Tensor out = evaluate(attend(causal_key_ranges(SequenceLayout(1, 1024, {512}), 0)),
                              perturbed(qkv, 100, std::numeric_limits<double>::quiet_NaN()))[0];
  for (double x : to_doubles(tokens(out, 512, 1024))) ASSERT_TRUE(std::isfinite(x));
  const Tensor window = evaluate(attend(causal_key_ranges(SequenceLayout(1, 1024), 64)),
                                 perturbed(qkv, 100, std::numeric_limits<double>::quiet_NaN()))[0];
  for (double x : to_doubles(tokens(window, 256, 1024))) ASSERT_TRUE(std::isfinite(x));
  // Two queries of one block read either end of the keys; the blocks between them are skipped too.
  std::vector<Tensor> ends = operands({.batch = 1, .queries = 2, .keys = 1024});
  const Tensor between =
      evaluate(attend({{0, 1000}, {10, 1010}}),
               {ends[0], perturbed({ends[1]}, 500, NAN)[0], perturbed({ends[2]}, 500, NAN)[0]})[0];
  for (double x : to_doubles(between)) ASSERT_TRUE(std::isfinite(x));
}

TEST(SoftmaxAttention, MemoryGrowsLinearlyWithTheLength) {
  const auto peak = [](int64_t length) {
    Context ctx({.num_threads = 2});
    const Var q(Tensor::zeros(ctx, {1, length, 1, 8}, DType::kF32), true);
    ctx.reset_peak();
    Tape tape(ctx);
    const Var out = softmax_attention(tape, q, q, q, causal_key_ranges(SequenceLayout(1, length), 0), 1.0);
    tape.backward({out}, {Tensor::zeros(ctx, out.shape(), DType::kF32)});
    return ctx.memory().peak_bytes;
  };
  const size_t two = peak(2048), four = peak(4096);
  EXPECT_LT(four, 2.2 * double(two));
  EXPECT_LT(four, size_t(4096) * 4096 * 4 / 16);
}

TEST(SoftmaxAttention, RefusesWhatDoesNotFit) {
  const KeyRanges causal = causal_key_ranges(SequenceLayout(2, 7), 0);
  EXPECT_THROW(evaluate(attend(causal), operands({.queries = 8, .keys = 8})), Error);
  EXPECT_THROW(evaluate(attend(causal), operands({.queries = 7, .keys = 6})), Error);
  EXPECT_THROW(evaluate(attend(causal), operands({.queries = 7, .keys = 7, .heads = 3})), Error);
  EXPECT_THROW(causal_key_ranges(SequenceLayout(2, 7), -1), Error);
}

}  // namespace
}  // namespace spanwise::testing
