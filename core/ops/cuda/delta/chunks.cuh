#pragma once
// What the bf16 kernels of gated_delta share. A call goes through them in this order, everything per chunk of
// up to 64 tokens and value head (symbols: core/ops/gated_delta.h):
//
//   prepare    all chunks at once: decay factors, Θ = (I + Λ)⁻¹ and A = s (QKᵀ)∘E∘M
//   summarize  only where long segments are cut into pieces (pieces.h): what each does to a state
//   scan       chunk after chunk, a block per (segment, head, 64 columns of V), Sᵀ in registers: N, O, S
//   retreat    the same backwards, dSᵀ in registers: Z, dS
//   gradients  all chunks at once: the partial sums of dq, dk, dv, dβ, dG; then finish: dβ, dg
//
// Between kernels 64 x 64 bf16 blocks travel as images (common/wgmma_images.cuh) of 8 KB, which bulk copies
// move without a change of layout. Rows of tokens past a chunk's end are zero in all of them.
//
//   theta, scores  [chunks, HV] images, rows and columns are tokens
//   factors        [chunks, HV, 4, 64] fp32: log2 of the decay since the chunk's start (G), e^G, e^{Ḡ−G}, β
//   values (N, Z)  [chunks, HV, V/64] images, rows are tokens
//   states (S, dS) [slots, HV, V/64, K/64] images of Sᵀ: rows are columns of V. A slot for every chunk but
//                  the segments' first, then one a row for incoming states (S), or for last ones (dS)

#include <type_traits>

#include "core/ops/cuda/common/wgmma_images.cuh"
#include "core/ops/cuda/delta/sizes.h"

namespace spanwise::cuda::delta {

inline constexpr int kFactorBytes = kFactorElems * 4;

/// Calls fn(std::integral_constant) of a width of keys or values that check_supported() has let through.
template <class F>
void with_width(int width, F&& fn) {
  switch (width) {
    case 64:
      return fn(std::integral_constant<int, 64>());
    case 128:
      return fn(std::integral_constant<int, 128>());
    case 256:
      return fn(std::integral_constant<int, 256>());
  }
}

/// Rows [token, head, width] of an operand; 16-byte aligned.
struct Rows {
  bf16* data;
  int64_t stride;  ///< elements from token to token
};

/// Chunks [first, last) that one block walks through: a segment, or pieces of one (pieces.h).
struct Segment {
  int first, last;
  int initial, final;  ///< rows of the states it starts from and ends with; −1: zero, or not wanted
  int piece;           ///< where it starts (backward: ends) from the state of a piece instead; or −1
};

struct Problem {
  const Chunk* chunks;
  int num_chunks, H, HV, K, V;
  float scale;
  Rows q, k;
};

struct PrepareArgs {
  Problem problem;
  const float *log_decay, *beta;  ///< log_decay may be nullptr: no decay
  int64_t log_decay_stride, beta_stride;
  bf16 *theta, *scores;
  float* factors;
};
void launch_prepare(cudaStream_t stream, const PrepareArgs& args);

struct ScanArgs {
  Problem problem;
  const Segment* segments;
  int num_segments;
  Rows v;
  const bf16 *theta, *scores;
  const float* factors;
  const float* initial;  ///< [B, HV, K, V] or nullptr
  const float* pieces;   ///< [pieces, HV, K, V]
  float* final;          ///< [B, HV, K, V]
  Rows out;
  bf16 *states, *values;  ///< images, or nullptr: not saved
};
void launch_scan(cudaStream_t stream, const ScanArgs& args);
template <int kK>
void launch_scan_of(cudaStream_t stream, const ScanArgs& args);

struct RetreatArgs {
  Problem problem;
  const Segment* segments;
  int num_segments;
  Rows dout;
  const bf16 *theta, *scores;
  const float* factors;
  const float* dfinal;  ///< [B, HV, K, V] or nullptr
  const float* pieces;  ///< [pieces, HV, K, V]
  float* dinitial;      ///< [B, HV, K, V] or nullptr, written for segments that start from initial_state
  bf16 *dstates, *z;    ///< images
};
void launch_retreat(cudaStream_t stream, const RetreatArgs& args);
template <int kK>
void launch_retreat_of(cudaStream_t stream, const RetreatArgs& args);

/// Chunks [first, last) whose action on a state is summarised.
struct SummaryUnit {
  int first, last;
  int start;              ///< backward: row of the gradient that they end with; −1: zero
  int index;              ///< of the results
  int state, transition;  ///< 1: wanted
};
enum class Direction { kForward, kBackward };
/// S_out = M S_in + B forward; backward dS_in = Mᵀ dS_out + D, of which only D is computed.
struct SummaryArgs {
  Problem problem;
  Direction direction;
  const SummaryUnit* units;
  int num_units;
  Rows values;  ///< v, or dout
  const bf16 *theta, *scores;
  const float* factors;
  const float* start;  ///< [B, HV, K, V] or nullptr
  float* states;       ///< [·, HV, K, V]: B or D; of units with a start dS_in itself
  float* transitions;  ///< [·, HV, K, K]: M; nullptr: none is wanted
  float* passes;       ///< [·, HV]: 0 where M is zero in fp32 and was not written; or nullptr
};
void launch_summarize(cudaStream_t stream, const SummaryArgs& args);
template <int kK>
void launch_summarize_of(cudaStream_t stream, const SummaryArgs& args);

struct GradientArgs {
  Problem problem;
  const int* selected;  ///< the chunks to work on
  int num_selected;
  Rows v, dout, dq, dk, dv;  ///< dq, dk: a row of HV heads
  const float* factors;
  const bf16 *states, *dstates, *values, *z;
  float* partials;  ///< [2, key blocks, chunks, HV, 64]: dG and dβ
};
void launch_gradients(cudaStream_t stream, const GradientArgs& args);
template <int kCols, int kV>
void launch_gradients_of(cudaStream_t stream, const GradientArgs& args);

/// 2^x, denormals as zero.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Asynchronous copies of a chunk's rows of one head, `kCols` columns from `first_col`, into images; zeros
/// past its end. `thread` of kThreads. A thread keeps its columns, and its rows their place mod 8.
template <int kCols, int kThreads>
__device__ __forceinline__ void copy_rows(bf16* images, const Rows& rows, const Chunk& chunk, int first_col,
                                          int thread) {
  constexpr int kPieces = kCols / 8, kStep = kThreads / kPieces;
  static_assert(kThreads % kPieces == 0 && kChunk % kStep == 0);
  const int row = thread / kPieces, col = thread % kPieces * 8;
  const bf16* from = rows.data + chunk.begin * rows.stride + first_col + col;
#pragma unroll
  for (int i = 0; i < kChunk / kStep; ++i) {
    const int r = row + i * kStep;
    const bool inside = r < chunk.length;
    copy_async_16(images + images_piece(r, col), from + (inside ? r * rows.stride : 0), inside);
  }
}

}  // namespace spanwise::cuda::delta
