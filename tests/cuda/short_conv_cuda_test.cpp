#include "core/ops/short_conv.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

// Operands: x, weight, bias, initial_state. Outputs: out, final_state.
OpFunction conv_op(const SequenceLayout& layout, Activation activation, const L2Heads& heads) {
  return [=](Tape& tape, const std::vector<Var>& v) {
    const ShortConvResult r = short_conv(tape, v[0], v[1], v[2], layout, activation, v[3], heads);
    return std::vector<Var>{r.out, r.final_state};
  };
}

struct Case {
  int64_t batch, length, channels, width;
  std::vector<int64_t> starts{};
  Activation activation = Activation::kSiLU;
  bool bias = true, initial = true;
  int64_t column_block = 0;
  int64_t head_dim = 0;
};

void check_conv(const Case& c) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    SCOPED_TRACE(fmt::format("{} [{}, {}, {}] width {} documents {} block {} heads of {}", name_of(p.dtype),
                             c.batch, c.length, c.channels, c.width, c.starts.size(), c.column_block,
                             c.head_dim));
    const Tensor bias = c.bias ? normal64({c.channels}, "bias") : Tensor();
    const Tensor initial = c.initial ? normal64({c.batch, c.width - 1, c.channels}, "initial") : Tensor();
    check_on_cuda(conv_op(SequenceLayout(c.batch, c.length, c.starts), c.activation, {c.head_dim}),
                  {activation_operand(normal64({c.batch, c.length, c.channels}, "x"), p, c.column_block),
                   vector_operand(normal64({c.channels, 1, c.width}, "weight", 0.5), p),
                   vector_operand(bias, p), activation_operand(initial, p)},
                  {p.bounds.output, p.bounds.output});
  }
}

TEST(CudaShortConv, EqualsTheCpuForEveryWidthAndLength) {
  for (const int64_t width : {2, 3, 4}) {
    for (const int64_t length : {1, 2, 3, 4, 31, 63, 100, 1024}) {
      check_conv({2, length, 24, width});
      check_conv({2, length, 24, width, {0, length}, Activation::kNone, false, false});
    }
  }
  check_conv({1, 2000, 520, 4});
}

TEST(CudaShortConv, SeesNothingOfOtherDocuments) {
  for (const int64_t width : {2, 3, 4}) {
    check_conv({2, 17, 12, width, {2, 3, 5, 8, 12, 19, 20, 22, 25, 29}});
    check_conv({2, 17, 12, width, {0, 2, 3, 5, 8, 12, 17}});
    check_conv({1, 9, 8, width, {7}, Activation::kNone});
    check_conv({1, 2, 8, width, {0, 1}, Activation::kNone});
  }
  for (int64_t start = 0; start < 140; start += 3) check_conv({2, 70, 4, 4, {start}});
}

TEST(CudaShortConv, TakesColumnBlocksAndAnyNumberOfChannels) {
  check_conv({2, 100, 64, 4, {130}, Activation::kSiLU, true, true, 128});
  check_conv({2, 100, 64, 4, {130}, Activation::kSiLU, true, true, 10});
  check_conv({2, 50, 7, 3, {60}});
  check_conv({1, 70, 2048, 4, {66}, Activation::kSiLU, false, false});
}

// Heads of 64 and 128 in one pass; of other sizes, after no activation and in unaligned rows in two.
TEST(CudaShortConv, DividesHeadsByTheirLength) {
  for (const int64_t head_dim : {64, 128, 32, 256}) {
    const int64_t channels = 3 * head_dim;  // blocks and warps that are partly there
    for (const int64_t width : {2, 3, 4})
      check_conv({2, 70, channels, width, {9, 66, 72}, Activation::kSiLU, true, true, 0, head_dim});
    for (const int64_t length : {1, 3, 63, 200})
      check_conv({2, length, channels, 4, {}, Activation::kSiLU, false, true, 0, head_dim});
    check_conv({2, 50, channels, 4, {60}, Activation::kSiLU, false, false, 64, head_dim});
    check_conv({2, 50, channels, 4, {60}, Activation::kSiLU, false, false, 10, head_dim});
    check_conv({2, 50, channels, 4, {60}, Activation::kNone, false, false, 0, head_dim});
  }
}

}  // namespace
}  // namespace spanwise::testing
