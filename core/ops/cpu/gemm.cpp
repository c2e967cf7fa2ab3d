#include "core/ops/cpu/gemm.h"

#include <cblas.h>

#include <algorithm>
#include <limits>

#include "core/check.h"

namespace spanwise::cpu {

namespace {
CBLAS_TRANSPOSE cblas(Trans t) {
  return t == Trans::kYes ? CblasTrans : CblasNoTrans;
}

// cblas takes 32-bit sizes and would take the lower half of a larger one.
void check_sizes(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc) {
  constexpr int64_t kMost = std::numeric_limits<blasint>::max();
  SPANWISE_CHECK(std::max({m, n, k, lda, ldb, ldc}) <= kMost,
                 "a product [{}, {}] x [{}, {}] with row strides {}, {}, {} is above OpenBLAS's limit, {}", m,
                 k, k, n, lda, ldb, ldc, kMost);
}
}  // namespace

template <>
void gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  check_sizes(m, n, k, lda, ldb, ldc);
  cblas_sgemm(CblasRowMajor, cblas(ta), cblas(tb), m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <>
void gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
          const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  check_sizes(m, n, k, lda, ldb, ldc);
  cblas_dgemm(CblasRowMajor, cblas(ta), cblas(tb), m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace spanwise::cpu
