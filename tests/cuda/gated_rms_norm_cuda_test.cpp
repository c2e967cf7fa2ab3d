#include "core/ops/accumulate.h"
#include "core/ops/gated_rms_norm.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

OpFunction norm_op(GatedNormOptions options) {
  return [options](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{gated_rms_norm(tape, v[0], v[1], v[2], 1e-5, options)};
  };
}

void check_gated(const CudaPrecision& p, GatedNormOptions options, const Shape& shape, int64_t weight_elems,
                 int64_t column_block = 0) {
  SCOPED_TRACE(fmt::format("{} {} gate {} order {}", name_of(p.dtype), shape.str(),
                           int(options.gate_activation), int(options.order)));
  const Tensor weight = weight_elems > 0 ? normal64({weight_elems}, "w", 0.3, 1.0) : Tensor();
  check_on_cuda(
      norm_op(options),
      {activation_operand(normal64(shape, "x"), p, column_block),
       activation_operand(normal64(shape, "gate", 2.0), p, column_block), vector_operand(weight, p)},
      {p.bounds.output});
}

TEST(CudaGatedRmsNorm, EqualsTheCpuForEveryOptionAndWidth) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const Activation gate : {Activation::kSiLU, Activation::kSigmoid}) {
      for (const GateOrder order : {GateOrder::kNormThenGate, GateOrder::kGateThenNorm}) {
        check_gated(p, {gate, order}, {100, 5, 128}, 128);
        check_gated(p, {gate, order}, {63, 2048}, 2048);
      }
    }
    for (const int64_t width : {7, 64, 256, 768, 4096}) check_gated(p, {}, {1, 31, width}, width);
  }
}

TEST(CudaGatedRmsNorm, TakesWeightsPerGroupNoWeightAndColumnBlocks) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    check_gated(p, {}, {301, 6, 64}, 384);
    check_gated(p, {}, {301, 6, 64}, 0);
    check_gated(p, {}, {301, 256}, 256, 512);
    check_gated(p, {}, {301, 256}, 256, 10);
  }
}

TEST(CudaGatedRmsNorm, DividedRowsUseTheSumsOfAllParts) {
  for (const GateOrder order : {GateOrder::kNormThenGate, GateOrder::kGateThenNorm}) {
    // The other part is like this one: every sum doubles.
    const OpFunction divided = [order](Tape& tape, const std::vector<Var>& v) {
      Context& ctx = tape.context();
      GatedNormOptions options{.order = order};
      options.part = {.begin = 0, .whole = 2 * v[0].dim(-1), .sum = [&ctx](const Tensor& t) {
                        const Tensor copy = Tensor::empty(ctx, t.shape(), t.dtype());
                        copy.copy_from(t);
                        accumulate(ctx, t, copy);
                      }};
      return std::vector<Var>{gated_rms_norm(tape, v[0], v[1], v[2], 1e-5, options)};
    };
    for (const CudaPrecision& p : kCudaPrecisions) {
      check_on_cuda(
          divided,
          {activation_operand(normal64({100, 512}, "x"), p), activation_operand(normal64({100, 512}, "g"), p),
           vector_operand(normal64({512}, "w"), p)},
          {p.bounds.output});
    }
  }
}

}  // namespace
}  // namespace spanwise::testing
