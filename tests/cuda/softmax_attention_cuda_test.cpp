#include "core/ops/cuda/softmax_attention.h"

#include <cmath>

#include "core/ops/convert.h"
#include "core/sequence_layout.h"
#include "tests/testing/cuda_testing.h"

namespace spanwise {
namespace {

using namespace testing;
using cuda::AttentionPath;

/// The op on the CPU; on the GPU the same tape record with the kernels of one path.
OpFunction attend(const KeyRanges& ranges, double scale, AttentionPath path) {
  return [=](Tape& tape, const std::vector<Var>& x) -> std::vector<Var> {
    Context& ctx = tape.context();
    if (ctx.device() == Device::kCPU || path == AttentionPath::kAuto)
      return {softmax_attention(tape, x[0], x[1], x[2], ranges, scale)};
    const AttentionInputs in{x[0].value(), x[1].value(), x[2].value(), ranges, scale};
    const Tensor &q = in.q, &v = in.v;
    const AttentionForward forward{
        Tensor::empty(ctx, {q.dim(0), q.dim(1), q.dim(2), v.dim(3)}, q.dtype()),
        Tensor::empty(ctx, {q.dim(0), q.dim(1), q.dim(2)}, accumulation_dtype(q.dtype()))};
    cuda::softmax_attention_fwd(ctx, in, forward, path);
    const Var out = tape.output(forward.out, {x[0], x[1], x[2]});
    tape.record({x[0], x[1], x[2]}, {out}, [&ctx, x, out, in, forward, path] {
      const AttentionBackward grads{Tensor::empty(ctx, in.q.shape(), in.q.dtype()),
                                    Tensor::empty(ctx, in.k.shape(), in.k.dtype()),
                                    Tensor::empty(ctx, in.v.shape(), in.v.dtype())};
      cuda::softmax_attention_bwd(ctx, out.grad(), in, forward, grads, path);
      x[0].add_grad(ctx, grads.dq);
      x[1].add_grad(ctx, grads.dk);
      x[2].add_grad(ctx, grads.dv);
    });
    return {out};
  };
}

struct Sizes {
  int64_t batch = 1, queries, keys, heads = 2, kv_heads = 1, width = 64, value_width = 0;
};

struct Kernels {
  DType dtype;
  AttentionPath path;
};
constexpr Kernels kF32{DType::kF32, AttentionPath::kAuto}, kMma{DType::kBF16, AttentionPath::kMma},
    kWgmma{DType::kBF16, AttentionPath::kWgmma}, kTwice{DType::kBF16, AttentionPath::kWgmmaTwice};

void check(const Sizes& s, const KeyRanges& ranges, Kernels kernels, double scale_factor = 1.0,
           int64_t column_block = 0) {
  SCOPED_TRACE(fmt::format("{} rows, {} queries, {} keys, {} heads on {}, width {}, {}, path {}", s.batch,
                           s.queries, s.keys, s.heads, s.kv_heads, s.width, name_of(kernels.dtype),
                           int(kernels.path)));
  const CudaBounds bounds = kernels.dtype == DType::kF32 ? kBoundsF32 : kBoundsBF16;
  const int64_t value_width = s.value_width > 0 ? s.value_width : s.width;
  // A softmax of one key does not move: dq and dk are the rounding of zero, and have no ratio.
  bool moves = false;
  for (size_t i = 0; i < ranges.begin.size(); ++i) moves |= ranges.end[i] - ranges.begin[i] > 1;
  const auto operand = [&](const char* name, int64_t length, int64_t heads, int64_t width) {
    return CudaOperand{.value = random_tensor({s.batch, length, heads, width}, DType::kF64, name),
                       .dtype = kernels.dtype,
                       .gradient_bound = moves || *name == 'v' ? bounds.gradient : 0,
                       .column_block = column_block,
                       .block_dims = 2};
  };
  check_on_cuda(attend(ranges, scale_factor / std::sqrt(double(s.width)), kernels.path),
                {operand("q", s.queries, s.heads, s.width), operand("k", s.keys, s.kv_heads, s.width),
                 operand("v", s.keys, s.kv_heads, value_width)},
                {bounds.output});
}

void check_causal(Sizes s, Kernels kernels, int64_t window = 0, std::vector<int64_t> documents = {}) {
  s.queries = s.keys;
  const SequenceLayout layout = documents.empty() ? SequenceLayout(s.batch, s.keys)
                                                  : SequenceLayout(s.batch, s.keys, std::move(documents));
  check(s, causal_key_ranges(layout, window), kernels);
}

TEST(CudaSoftmaxAttention, CausalOfEveryLengthEqualsFp64) {
  for (const Kernels kernels : {kF32, kMma, kWgmma, kTwice}) {
    for (const int64_t length : {1, 63, 100, 1024}) check_causal({.keys = length, .width = 128}, kernels);
    check_causal({.keys = 2000, .heads = 1, .width = 64}, kernels);
  }
}

TEST(CudaSoftmaxAttention, EveryHeadDim) {
  for (const Kernels kernels : {kF32, kMma, kWgmma, kTwice}) {
    for (const int64_t width : {64, 128, 256})
      check_causal({.batch = 2, .keys = 200, .width = width}, kernels);
    for (const int64_t length : {1, 130, 333})
      check_causal({.batch = 2, .keys = length, .heads = 4, .kv_heads = 2, .width = 256}, kernels);
  }
  check({.batch = 3, .queries = 40, .keys = 40, .heads = 3, .kv_heads = 3, .width = 24, .value_width = 20},
        causal_key_ranges(SequenceLayout(3, 40), 0), kF32);
}

TEST(CudaSoftmaxAttention, QueryHeadsShareKeyHeads) {
  for (const Kernels kernels : {kF32, kMma, kWgmma, kTwice}) {
    check_causal({.batch = 2, .keys = 150, .heads = 6, .kv_heads = 2, .width = 128}, kernels);
    check_causal({.keys = 300, .heads = 4, .kv_heads = 1, .width = 64}, kernels);
  }
}

TEST(CudaSoftmaxAttention, PackedDocumentsAndWindows) {
  // Documents start inside a block, at its border, at a row's start and at its last token.
  const std::vector<int64_t> documents{0, 9, 128, 300, 499, 500 + 33, 500 + 256, 500 + 257};
  for (const Kernels kernels : {kF32, kMma, kWgmma, kTwice}) {
    check_causal({.batch = 2, .keys = 500, .width = 128}, kernels, 0, documents);
    check_causal({.batch = 2, .keys = 500, .width = 64}, kernels, 37, documents);
    check_causal({.batch = 2, .keys = 500, .width = 256}, kernels, 100, documents);
    check_causal({.keys = 700, .heads = 1, .width = 128}, kernels, 150);
    check_causal({.keys = 260, .heads = 1, .width = 128}, kernels, 1);
  }
}

TEST(CudaSoftmaxAttention, QueriesAndKeysDifferInNumber) {
  KeyRanges cache, gaps;
  for (int64_t i = 0; i < 70; ++i) {  // the last 70 of 555 tokens
    cache.begin.push_back(0);
    cache.end.push_back(555 - 70 + i + 1);
  }
  for (int64_t i = 0; i < 2 * 150; ++i) {  // some read nothing, neighbours far-off keys
    gaps.begin.push_back(i % 3 == 0 ? 40 : 7 * (i % 50));
    gaps.end.push_back(i % 3 == 0 ? 40 : gaps.begin.back() + 1 + i % 90);
  }
  for (const Kernels kernels : {kF32, kMma, kWgmma, kTwice}) {
    check({.queries = 70, .keys = 555, .width = 128}, cache, kernels);
    check({.queries = 1, .keys = 333, .heads = 4, .kv_heads = 2, .width = 128}, {{5}, {331}}, kernels);
    check({.batch = 2, .queries = 150, .keys = 440, .width = 64}, gaps, kernels);
    check({.queries = 300, .keys = 64, .width = 128},
          {std::vector<int64_t>(300, 3), std::vector<int64_t>(300, 60)}, kernels);
    check({.batch = 2, .queries = 150, .keys = 440, .width = 256}, gaps, kernels);
  }
}

TEST(CudaSoftmaxAttention, EmptyRangesGiveZeros) {
  KeyRanges ranges = causal_key_ranges(SequenceLayout(1, 300), 0);
  for (int64_t i = 0; i < 300; ++i) {
    if (i == 7 || i >= 128) ranges.begin[i] = ranges.end[i] = i < 200 ? 0 : 300;
  }
  for (const Kernels kernels : {kF32, kMma, kWgmma, kTwice}) {
    check({.queries = 300, .keys = 300, .width = 64}, ranges, kernels);
    check({.queries = 2, .keys = 5, .width = 64}, {{0, 5}, {0, 5}}, kernels);
  }
}

TEST(CudaSoftmaxAttention, SharpSoftmaxesStayFinite) {
  for (const Kernels kernels : {kMma, kWgmma, kTwice})
    check({.queries = 400, .keys = 400, .width = 128}, causal_key_ranges(SequenceLayout(1, 400), 0), kernels,
          4.0);
}

// Rows behind the last key have scores of zero: their P must not be computed where a query's own scores, and
// its log-sum-exp, lie below what exp's inverse holds in fp32 (−88). 200 keys: the last block has 72.
TEST(CudaSoftmaxAttention, LogitsFarBelowZeroStayFiniteInATailBlock) {
  // Scores of −181 ± 6. The bound: dS, rounded to BF16, is multiplied by keys that are four times as large as
  // what they differ by.
  constexpr double kBound = 0.05;
  const KeyRanges all{std::vector<int64_t>(64, 0), std::vector<int64_t>(64, 200)};
  for (const Kernels kernels : {kMma, kWgmma, kTwice}) {
    for (const int64_t width : {64, 128, 256}) {
      SCOPED_TRACE(fmt::format("width {}, path {}", width, int(kernels.path)));
      const auto operand = [&](const char* name, int64_t length, double shift) {
        return CudaOperand{.value = random_tensor({1, length, 1, width}, DType::kF64, name, 1.0, shift),
                           .dtype = kernels.dtype,
                           .gradient_bound = kBound};
      };
      check_on_cuda(attend(all, 1 / std::sqrt(128.0) * (128.0 / double(width)), kernels.path),
                    {operand("q", 64, 4.0), operand("k", 200, -4.0), operand("v", 200, 0.0)},
                    {kBoundsBF16.output});
    }
  }
}

// Heads that do not lie on 16 bytes.
TEST(CudaSoftmaxAttention, F32TakesHeadsOfAnyWidth) {
  const KeyRanges ranges = causal_key_ranges(SequenceLayout(2, 70), 0);
  for (const auto& [width, value_width] :
       {std::pair{50, 50}, {100, 2}, {2, 100}, {1, 1}, {33, 255}, {256, 254}, {24, 50}}) {
    const Sizes sizes{.batch = 2,
                      .queries = 70,
                      .keys = 70,
                      .heads = 2,
                      .kv_heads = 1,
                      .width = width,
                      .value_width = value_width};
    check(sizes, ranges, kF32);
    check(sizes, ranges, kF32, 1.0, 3);
  }
}

TEST(CudaSoftmaxAttention, ReadsColumnBlocks) {
  const KeyRanges ranges = causal_key_ranges(SequenceLayout(2, 130), 0);
  for (const Kernels kernels : {kF32, kMma, kWgmma, kTwice}) {
    const Sizes sizes{.batch = 2, .queries = 130, .keys = 130, .heads = 2, .kv_heads = 2, .width = 64};
    check(sizes, ranges, kernels, 1.0, 64);
    check(sizes, ranges, kernels, 1.0, 6);  // not aligned to 16 bytes
  }
}

/// Random q, k, v of 2·140 queries and keys.
std::vector<CudaOperand> pair_of_rows(DType dtype) {
  std::vector<CudaOperand> operands;
  for (const char* name : {"q", "k", "v"})
    operands.push_back(
        {.value = random_tensor({2, 140, 2, 64}, DType::kF64, name), .dtype = dtype, .gradient_bound = 0});
  return operands;
}

TEST(CudaSoftmaxAttention, MergedPartsEqualTheWhole) {
  const KeyRanges all = causal_key_ranges(SequenceLayout(2, 140), 0);
  KeyRanges first = all, second = all;
  for (size_t i = 0; i < all.begin.size(); ++i) {
    second.begin[i] = std::min<int64_t>(all.begin[i], all.end[i]);
    first.begin[i] = std::min<int64_t>(50, all.end[i]);  // the later keys, none of the first 50 queries
    second.end[i] = std::min<int64_t>(50, all.end[i]);   // the first 50 keys, read by all
  }
  const auto merged_in = [=](bool in_f32) -> OpFunction {
    return [=](Tape& tape, const std::vector<Var>& x) -> std::vector<Var> {
      Context& ctx = tape.context();
      if (ctx.device() == Device::kCPU) return {softmax_attention(tape, x[0], x[1], x[2], all, 0.125)};
      AttentionForward total =
          softmax_attention_fwd(ctx, {x[0].value(), x[1].value(), x[2].value(), second, 0.125});
      if (in_f32) total.out = converted(ctx, total.out, DType::kF32);
      const AttentionForward part =
          softmax_attention_fwd(ctx, {x[0].value(), x[1].value(), x[2].value(), first, 0.125});
      merge_attention(ctx, total, part, first);
      return {Var(total.out)};
    };
  };
  check_on_cuda(merged_in(false), pair_of_rows(DType::kF32), {kBoundsF32.output});
  check_on_cuda(merged_in(false), pair_of_rows(DType::kBF16), {kBoundsBF16.output});
  check_on_cuda(merged_in(true), pair_of_rows(DType::kBF16), {kBoundsBF16.output});
}

// Ring attention's backward: over some of the keys, with the whole softmax's log-sum-exp.
TEST(CudaSoftmaxAttention, BackwardOfAPartTakesTheWholeSoftmax) {
  const KeyRanges all = causal_key_ranges(SequenceLayout(2, 140), 0);
  KeyRanges part = all;
  for (size_t i = 0; i < all.begin.size(); ++i) {
    part.begin[i] = std::min<int64_t>(30, all.end[i]);
    part.end[i] = std::min<int64_t>(90, all.end[i]);
  }
  const Tensor seed = random_tensor({2, 140, 2, 64}, DType::kF64, "dout");
  const OpFunction backward = [=](Tape& tape, const std::vector<Var>& x) -> std::vector<Var> {
    Context& ctx = tape.context();
    AttentionInputs in{x[0].value(), x[1].value(), x[2].value(), all, 0.125};
    const AttentionForward forward = softmax_attention_fwd(ctx, in);
    in.ranges = part;
    const bool gpu = ctx.device() == Device::kCUDA;
    const Tensor dout = gpu ? to_cuda(seed, in.q.dtype()) : to_cpu64(to_cuda(seed, DType::kBF16));
    const AttentionBackward grads = softmax_attention_bwd(
        ctx,
        gpu && in.q.dtype() == DType::kF32 ? to_cuda(to_cpu64(to_cuda(seed, DType::kBF16)), DType::kF32)
                                           : dout,
        in, forward);
    return {Var(grads.dq), Var(grads.dk), Var(grads.dv)};
  };
  const double f32 = kBoundsF32.gradient, bf16 = kBoundsBF16.gradient;
  check_on_cuda(backward, pair_of_rows(DType::kF32), {f32, f32, f32});
  check_on_cuda(backward, pair_of_rows(DType::kBF16), {bf16, bf16, bf16});
}

// Rings of stages, barriers, proxies and turns: a race shows as a rare difference.
TEST(CudaSoftmaxAttention, ManyRunsAreBitwiseEqual) {
  Context& ctx = cuda_context();
  const Shape shape{2, 1500, 4, 128};
  const auto operand = [&](const char* name) {
    return to_cuda(random_tensor(shape, DType::kF64, name), DType::kBF16);
  };
  const AttentionInputs in{operand("q"), operand("k"), operand("v"),
                           causal_key_ranges(SequenceLayout(2, 1500, {0, 700, 1500, 1777}), 0), 0.08};
  const Tensor dout = operand("dout");
  const auto bytes = [&](const Tensor& t) {
    std::vector<char> host(t.bytes());
    t.copy_to_host(host.data(), host.size());
    return host;
  };
  for (const AttentionPath path : {AttentionPath::kWgmma, AttentionPath::kWgmmaTwice, AttentionPath::kMma}) {
    const auto results = [&] {
      const AttentionForward forward{Tensor::empty(ctx, shape, DType::kBF16),
                                     Tensor::empty(ctx, {2, 1500, 4}, DType::kF32)};
      const auto gradient = [&] { return Tensor::empty(ctx, shape, DType::kBF16); };
      const AttentionBackward grads{gradient(), gradient(), gradient()};
      cuda::softmax_attention_fwd(ctx, in, forward, path);
      cuda::softmax_attention_bwd(ctx, dout, in, forward, grads, path);
      return std::vector<std::vector<char>>{bytes(forward.out), bytes(forward.log_sum_exp), bytes(grads.dq),
                                            bytes(grads.dk), bytes(grads.dv)};
    };
    const auto first = results();
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(results() == first) << "path " << int(path) << ", run " << i;
  }
}

TEST(CudaSoftmaxAttention, RefusesWhatKernelsDoNotSupport) {
  const auto attend_width = [](int64_t width, double scale) {
    Context& ctx = cuda_context();
    const Tensor t = Tensor::zeros(ctx, {1, 4, 1, width}, DType::kBF16);
    return softmax_attention_fwd(ctx, {t, t, t, causal_key_ranges(SequenceLayout(1, 4), 0), scale});
  };
  EXPECT_THROW(attend_width(96, 1.0), Error);
  EXPECT_THROW(attend_width(64, -1.0), Error);
}

}  // namespace
}  // namespace spanwise
