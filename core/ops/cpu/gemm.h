#pragma once
// Row-major matrix products through OpenBLAS.

#include <cstdint>

namespace spanwise::cpu {

enum class Trans { kNo, kYes };

/// C = alpha·op(A)·op(B) + beta·C with op(A) [m, k], op(B) [k, n], C [m, n]; lda, ldb, ldc are the row
/// strides of the matrices as stored. With beta = 0, C is not read. T is float or double.
template <class T>
void gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
          int64_t ldb, T beta, T* c, int64_t ldc);

}  // namespace spanwise::cpu
