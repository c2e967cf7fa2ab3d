#pragma once
// Matrix products on the GPU by cuBLASLt, fp32 accumulation, row-major:
//
//   c [m, n] = op(a) [m, k] · op(b) [k, n] + beta · c (+ bias [n] in every row)
//
// a and b are both BF16 or both F32 (plain fp32 products: no TF32), c is F32 or of their dtype. A matrix is
// rows of consecutive elements, `stride` apart, so column blocks need no copy. Any size and alignment.
//
// An algorithm is chosen once per shape: of cuBLASLt's candidates the fastest, measured on the first call's
// operands, that gives the bits of its first choice. So results are bitwise equal from run to run although
// times are not. Split-k is allowed only where it adds its partial results in fp32, in a separate pass and a
// fixed order. The first large product of a shape waits for the GPU; no other does.

#include <cstdint>

#include "core/tensor.h"

namespace spanwise::cuda {

/// Held from a Context's first product on. What cuBLAS recommends for Hopper.
inline constexpr size_t kGemmWorkspaceBytes = size_t{32} << 20;

struct GemmOperand {
  const void* data;
  int64_t stride;
  bool transposed;  ///< op(x) is the transpose of what is stored
};

struct GemmCall {
  int64_t m, n, k;
  DType dtype;  ///< of a and b
  GemmOperand a, b;
  void* c;
  int64_t c_stride;
  DType c_dtype;
  bool accumulate = false;     ///< beta = 1, else 0 (c is not read)
  const void* bias = nullptr;  ///< of c's dtype
};

void gemm(Context& ctx, const GemmCall& call);

}  // namespace spanwise::cuda
