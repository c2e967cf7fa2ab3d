#include "core/ops/views.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

TEST(CudaViews, SplitColumnsGivesItsGradientBack) {
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{64, 128, 8}, {3, 5, 1}, {256, 64, 6}, std::vector<int64_t>(20, 8)}) {
    // The last block is not used: its gradient is zero.
    const OpFunction op = [&](Tape& tape, const std::vector<Var>& v) {
      std::vector<Var> blocks = split_columns(tape, v[0], sizes);
      blocks.pop_back();
      return blocks;
    };
    int64_t columns = 0;
    for (const int64_t size : sizes) columns += size;
    for (const CudaPrecision& p : kCudaPrecisions) {
      SCOPED_TRACE(fmt::format("{} columns {}", name_of(p.dtype), columns));
      check_on_cuda(op, {activation_operand(normal64({2, 101, columns}, "x"), p)},
                    std::vector<double>(sizes.size() - 1, 1e-12));
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
