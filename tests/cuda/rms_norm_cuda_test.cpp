#include "core/ops/accumulate.h"
#include "core/ops/rms_norm.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

const OpFunction kNorm = [](Tape& tape, const std::vector<Var>& v) {
  return std::vector<Var>{rms_norm(tape, v[0], v[1], 1e-6)};
};
const OpFunction kAddNorm = [](Tape& tape, const std::vector<Var>& v) {
  const AddRmsNorm out = add_rms_norm(tape, v[0], v[1], v[2], 1e-6);
  return std::vector<Var>{out.sum, out.normed};
};

void check_norm(const CudaPrecision& p, const Shape& shape, int64_t weight_elems, int64_t column_block = 0) {
  SCOPED_TRACE(
      fmt::format("{} {} weight {} block {}", name_of(p.dtype), shape.str(), weight_elems, column_block));
  const Tensor weight = weight_elems > 0 ? normal64({weight_elems}, "w", 0.3, 1.0) : Tensor();
  check_on_cuda(kNorm, {activation_operand(normal64(shape, "x"), p, column_block), vector_operand(weight, p)},
                {p.bounds.output});
}

TEST(CudaRmsNorm, EqualsTheCpuAtEveryWidth) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t width : {5, 33, 64, 128, 256, 300, 512, 1024, 1536, 2048, 2560, 4096})
      check_norm(p, {37, width}, width);
    check_norm(p, {13, 8192}, 8192);
    check_norm(p, {3, 2041}, 0);
    if (p.dtype == DType::kBF16) check_norm(p, {37, 12288}, 12288);
  }
}

TEST(CudaRmsNorm, EqualsTheCpuAtEveryNumberOfRows) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t rows : {1, 63, 100, 1024, 2000, 20011}) check_norm(p, {rows, 64}, 64);
    check_norm(p, {5003, 2048}, 2048);
  }
}

TEST(CudaRmsNorm, WeightsPerGroupAreSummedPerGroup) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    check_norm(p, {501, 4, 128}, 512);
    check_norm(p, {501, 12, 64}, 768);
    check_norm(p, {2000, 3, 24}, 72);
    check_norm(p, {7, 40, 256}, 40 * 256);
  }
}

TEST(CudaRmsNorm, ReadsColumnBlocksAlignedAndNot) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    check_norm(p, {100, 128}, 128, 64);
    check_norm(p, {100, 128}, 128, 6);
    check_norm(p, {100, 2048}, 2048, 32);
    SCOPED_TRACE("heads inside a wider block");
    check_on_cuda(
        kNorm,
        {activation_operand(normal64({63, 6, 64}, "x"), p, 128, 2), vector_operand(normal64({64}, "w"), p)},
        {p.bounds.output});
  }
}

TEST(CudaAddRmsNorm, EqualsTheCpu) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t width : {20, 64, 768, 2048, 8192}) {
      SCOPED_TRACE(width);
      check_on_cuda(
          kAddNorm,
          {activation_operand(normal64({205, width}, "x"), p),
           activation_operand(normal64({205, width}, "r"), p), vector_operand(normal64({width}, "w"), p)},
          {p.bounds.output, p.bounds.output});
    }
  }
}

TEST(CudaRmsNorm, DividedRowsUseTheSumsOfAllParts) {
  // The other part is like this one: every sum doubles.
  const OpFunction divided = [](Tape& tape, const std::vector<Var>& v) {
    Context& ctx = tape.context();
    const DimPart part{.begin = 0, .whole = 2 * v[0].dim(-1), .sum = [&ctx](const Tensor& t) {
                         const Tensor copy = Tensor::empty(ctx, t.shape(), t.dtype());
                         copy.copy_from(t);
                         accumulate(ctx, t, copy);
                       }};
    return std::vector<Var>{rms_norm(tape, v[0], v[1], 1e-6, part)};
  };
  for (const CudaPrecision& p : kCudaPrecisions) {
    check_on_cuda(divided,
                  {activation_operand(normal64({333, 512}, "x"), p), vector_operand(normal64({512}, "w"), p)},
                  {p.bounds.output});
  }
}

}  // namespace
}  // namespace spanwise::testing
