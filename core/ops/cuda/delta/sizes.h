#pragma once
// Sizes of gated_delta's memory on a GPU, from which gated_delta.cu and gated_delta_recurrent.cu allocate and
// cuda::gated_delta_bytes counts. No CUDA types: plans of runs ask, too.

#include <vector>

#include "core/ops/gpu_limits.h"
#include "core/ops/linear_state.h"

namespace spanwise::cuda {

namespace delta {

inline constexpr int kChunk = int(gpu_limits::kMostGatedDeltaChunk);  ///< tokens, at most
inline constexpr int kFactorElems = 4 * kChunk;                       ///< of a chunk and value head

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
/// The partial sums of dG and dβ: [2, key blocks, chunks, HV, 64].
TensorSize gate_gradient_partials(const LinearStateShape& shape, const ChunkList& chunks);

}  // namespace delta

namespace recurrent {

inline constexpr int kWarps = 8, kColumns = 32, kThreads = kWarps * kColumns;

/// Rows of the state that a thread holds; keys have at most 256 columns.
constexpr int rows_of_thread(int64_t K) {
  return K <= 64 ? 8 : K <= 128 ? 16 : 32;
}

}  // namespace recurrent

}  // namespace spanwise::cuda
