#pragma once
// Sizes of gated_delta's memory on a GPU, from which its kernels' launchers allocate and dry runs count. No
// CUDA types.

#include <vector>

#include "core/ops/gpu_limits.h"
#include "core/ops/linear_kernels.h"

namespace spanwise::cuda {

namespace delta {

inline constexpr int kChunk = int(gpu_limits::kMostGatedDeltaChunk);  ///< tokens, at most
inline constexpr int kFactorElems = 4 * kChunk;                       ///< of a chunk and value head

struct Chunk {
  int begin, length;  ///< tokens
  int state_in;       ///< slot of S₀, −1: zero
  int state_out;      ///< slot of dS₁, −1: zero
};
/// All chunks of a call. `has_dfinal`: gradients of last states come in.
std::vector<Chunk> device_chunks(const LinearStateCall& call, bool has_dfinal);
/// The indices of some segments' chunks.
std::vector<int> chunks_of(const std::vector<ChunkList::SegmentChunks>& segments);

/// Columns of K that one block of the gradients kernel takes.
constexpr int key_columns(int K) {
  return K < 128 ? K : 128;
}

struct TensorSize {
  Shape shape;
  DType dtype;
  int64_t bytes() const { return shape.numel() * int64_t(size_of(dtype)); }
};

/// Tensors of LinearStateForward::saved in BF16. States and values are there only when backward will follow;
/// those of pieces are undefined where no segment is cut. kPieceStates: B, and in backward D.
enum Saved { kTheta, kScores, kFactors, kPieceStates, kTransitions, kPasses, kStates, kValues, kNumSaved };
std::vector<TensorSize> saved_sizes(const LinearStateShape& shape, const ChunkList& chunks,
                                    int64_t num_pieces);
/// The first `count` of them; kNumSaved where backward will follow, else kStates.
std::vector<Tensor> allocate_saved(Context& ctx, const LinearStateCall& call, int count);
/// The partial sums of dG and dβ: [2, key blocks, chunks, HV, 64].
TensorSize gate_gradient_partials(const LinearStateShape& shape, const ChunkList& chunks);

/// Chunks and widths that the kernels are made for.
void check_supported(const LinearStateCall& call);

}  // namespace delta

namespace recurrent {

inline constexpr int kWarps = 8, kColumns = 32, kThreads = kWarps * kColumns;

/// Rows of the state that a thread holds; keys have at most 256 columns.
constexpr int rows_of_thread(int64_t K) {
  return K <= 64 ? 8 : K <= 128 ? 16 : 32;
}

/// Bytes of a segment as kernels read it.
inline constexpr int64_t kSegmentBytes = 24;

}  // namespace recurrent

}  // namespace spanwise::cuda
