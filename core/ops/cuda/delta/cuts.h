#pragma once
// How gated_delta's segments are cut into pieces (pieces.h). No CUDA types: plans of runs ask, too.

#include "core/ops/linear_kernels.h"

namespace spanwise::cuda::delta {

inline constexpr int kMostPieces = 64;  ///< of the longest segment

/// Which segments of a call are cut, and where.
class SegmentCuts {
 public:
  struct Piece {
    int first, last;  ///< chunks
  };
  struct Cut {
    ChunkList::SegmentChunks segment;
    int first, last;  ///< pieces, in the order of tokens
  };
  /// Of scans over `heads` value heads of K x V states, as they fill an H200: cut the same on every GPU.
  SegmentCuts(const ChunkList& chunks, int heads, int K, int V, bool decays);

  const std::vector<Piece>& pieces() const { return pieces_; }
  /// The cut of the segment that begins with this chunk, or nullptr.
  const Cut* find(int64_t first_chunk) const;

 private:
  std::vector<Piece> pieces_;
  std::vector<Cut> cuts_;
};

SegmentCuts cuts_of(const LinearStateShape& shape, const ChunkList& chunks);
inline SegmentCuts cuts_of(const LinearStateCall& call) {
  return cuts_of(shape_of(call), call.chunks);
}

}  // namespace spanwise::cuda::delta
