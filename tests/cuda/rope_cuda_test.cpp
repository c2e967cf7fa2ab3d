#include "core/ops/rope.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

OpFunction rotate(const std::vector<int64_t>& positions, double theta, int64_t rotary_dim = 0) {
  return [=](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{rope(tape, v[0], positions, theta, rotary_dim)};
  };
}

// Positions from `first`, starting again at 0 after 40 tokens.
std::vector<int64_t> positions_from(int64_t first, int64_t count) {
  std::vector<int64_t> positions;
  for (int64_t t = 0; t < count; ++t) positions.push_back(t < 40 ? first + t : t - 40);
  return positions;
}

TEST(CudaRope, EqualsTheCpuForEveryHeadShape) {
  struct Case {
    int64_t tokens, heads, dim, rotary, column_block;
  };
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const Case& c : {Case{1, 1, 64, 0, 0},
                          {63, 16, 128, 0, 0},
                          {100, 3, 64, 32, 0},
                          {100, 2, 256, 0, 512},
                          {77, 5, 128, 64, 6},
                          {9, 3, 10, 0, 0},
                          {9, 3, 20, 12, 0},
                          {3, 2, 514, 0, 0}}) {
      SCOPED_TRACE(fmt::format("{} tokens {} heads {} dim {} rotary {} block {}", name_of(p.dtype), c.tokens,
                               c.heads, c.dim, c.rotary, c.column_block));
      check_on_cuda(rotate(positions_from(5, c.tokens), 10000.0, c.rotary),
                    {activation_operand(normal64({1, c.tokens, c.heads, c.dim}, "x"), p, c.column_block, 2)},
                    {p.bounds.output});
    }
  }
}

TEST(CudaRope, AnglesOfPositionsUpToAMillionAreExact) {
  const CudaPrecision p{DType::kF32, kBoundsF32};
  for (const double theta : {1e4, 5e5}) {
    check_on_cuda(rotate(positions_from(1000000, 64), theta),
                  {activation_operand(normal64({1, 64, 4, 128}, "x"), p)}, {1e-6});
  }
}

TEST(CudaRope, TablesOfOneContextServeSeveralSettings) {
  const CudaPrecision p{DType::kF32, kBoundsF32};
  const auto x = activation_operand(normal64({1, 50, 2, 32}, "x"), p);
  for (int round = 0; round < 2; ++round) {
    for (const int64_t first : {0, 100, 2000}) {
      for (const double theta : {1e4, 1e6})
        check_on_cuda(rotate(positions_from(first, 50), theta), {x}, {1e-6});
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
