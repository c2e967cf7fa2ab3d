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
// fixed order. The first large product of a shape waits for the GPU; no other does. Where it adds to c, it is
// measured on memory of its own, as large as what it adds to: larger results are computed in blocks of rows.

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace spanwise::cuda {

/// Held from a Context's first product on. What cuBLAS recommends for Hopper.
inline constexpr size_t kGemmWorkspaceBytes = size_t{32} << 20;

/// Most bytes that a product which adds to c (accumulate) adds to at once, and that measuring it takes, once,
/// beside the workspace.
inline constexpr int64_t kGemmTrialBytes = int64_t{256} << 20;

/// Whether candidates are worth measuring: tens of microseconds.
constexpr bool gemm_is_measured(int64_t m, int64_t n, int64_t k) {
  return 2.0 * double(m) * double(n) * double(k) > 1e10;
}

/// Rows of c, of row_bytes each, that are added to at once: all m, or equal blocks of whole tiles.
constexpr int64_t gemm_rows_at_once(int64_t m, int64_t row_bytes) {
  constexpr int64_t kTile = 256;
  if (m * row_bytes <= kGemmTrialBytes) return m;
  const int64_t most = std::max<int64_t>(kGemmTrialBytes / row_bytes / kTile, 1) * kTile,
                blocks = (m + most - 1) / most;
  return ((m + blocks - 1) / blocks + kTile - 1) / kTile * kTile;
}

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

// The host's part of it, for gemm.cu and dry runs.

/// Of an address, up to 256 bytes.
uint32_t alignment_of(const void* p);
/// Products of one key share an algorithm.
using GemmKey = std::array<int64_t, 12>;
GemmKey gemm_key(const GemmCall& call);
/// The blocks of rows that a call is computed in.
std::vector<GemmCall> gemm_blocks(const GemmCall& call);
/// Bytes of c that measuring candidates takes beside the workspace; 0: sums reach c anyhow, or nothing is
/// measured.
size_t gemm_trial_bytes(const GemmCall& block);
/// Takes on a dry Context what gemm() takes: the workspace, once, and at a key's first product what choosing
/// takes.
void dry_gemm(Context& ctx, const GemmCall& call);

}  // namespace spanwise::cuda
