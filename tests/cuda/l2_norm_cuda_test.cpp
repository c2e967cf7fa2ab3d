#include "core/ops/l2_norm.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

const OpFunction kNorm = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{l2_norm(tape, v[0], 1e-6)};
};

TEST(CudaL2Norm, EqualsTheCpuAtEveryWidthAndInColumnBlocks) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t width : {3, 64, 96, 128, 256, 2048}) {
      for (const int64_t block : {0, 10, 64}) {
        SCOPED_TRACE(fmt::format("{} {} block {}", name_of(p.dtype), width, block));
        check_on_cuda(kNorm, {activation_operand(normal64({2, 63, 5, width}, "x"), p, block, 2)},
                      {p.bounds.output});
      }
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
