#include "core/ops/gates.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

TEST(CudaDecayGate, EqualsTheCpuForFastAndSlowDecay) {
  const OpFunction decay = [](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{decay_gate(tape, v[0], v[1], v[2])};
  };
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t heads : {1, 6, 16, 300}) {
      for (const int64_t tokens : {1, 63, 2000}) {
        for (const double shift : {-6.0, 0.0, 3.0}) {
          SCOPED_TRACE(fmt::format("{} heads {} tokens {} shift {}", name_of(p.dtype), heads, tokens, shift));
          check_on_cuda(
              decay,
              {{normal64({tokens, heads}, "a", 2.0, shift), p.dtype, p.bounds.gate, heads == 6 ? 5 : 0},
               {normal64({heads}, "A_log"), DType::kF32, p.bounds.gate},
               {normal64({heads}, "dt_bias"), DType::kF32, p.bounds.gate}},
              {p.bounds.output});
        }
      }
    }
  }
}

TEST(CudaScaledSigmoid, EqualsTheCpu) {
  for (const double scale : {1.0, 2.0}) {
    const OpFunction op = [scale](Tape& tape, const std::vector<Var>& v) {
      return std::vector<Var>{scaled_sigmoid(tape, v[0], scale)};
    };
    for (const CudaPrecision& p : kCudaPrecisions) {
      for (const int64_t block : {0, 3, 16}) {
        check_on_cuda(op, {{normal64({500, 16}, "x", 2.0), p.dtype, p.bounds.gate, block}},
                      {p.bounds.output});
        check_on_cuda(op, {{normal64({33, 3}, "x", 2.0), p.dtype, p.bounds.gate, block}}, {p.bounds.output});
      }
    }
  }
}

TEST(CudaMamba2Gates, EqualTheCpuWithAndWithoutClamping) {
  for (const StepRange range : {StepRange{}, StepRange{0.3, 1.5}}) {
    const OpFunction op = [range](Tape& tape, const std::vector<Var>& v) {
      const Mamba2Gates gates = mamba2_gates(tape, v[0], v[1], v[2], v[3], range);
      return std::vector<Var>{gates.v, gates.g};
    };
    for (const CudaPrecision& p : kCudaPrecisions) {
      for (const int64_t width : {5, 64, 128, 256}) {
        for (const int64_t block : {0, 6, 64}) {
          SCOPED_TRACE(fmt::format("{} width {} block {}", name_of(p.dtype), width, block));
          check_on_cuda(op,
                        {activation_operand(normal64({2, 100, 6, width}, "x"), p, block, 2),
                         {normal64({2, 100, 6}, "dt"), p.dtype, p.bounds.gate, block},
                         {normal64({6}, "A_log"), DType::kF32, p.bounds.gate},
                         {normal64({6}, "dt_bias"), DType::kF32, p.bounds.gate}},
                        {p.bounds.output, p.bounds.output});
        }
      }
    }
  }
}

TEST(CudaHeadSkip, EqualsTheCpu) {
  const OpFunction op = [](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{head_skip(tape, v[0], v[1], v[2])};
  };
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t width : {5, 64, 256}) {
      for (const int64_t block : {0, 6, 64}) {
        SCOPED_TRACE(fmt::format("{} width {} block {}", name_of(p.dtype), width, block));
        check_on_cuda(op,
                      {activation_operand(normal64({2, 63, 7, width}, "y"), p),
                       activation_operand(normal64({2, 63, 7, width}, "x"), p, block, 2),
                       {normal64({7}, "D"), DType::kF32, p.bounds.gate}},
                      {p.bounds.output});
      }
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
