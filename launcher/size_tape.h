#pragma once
// The tape of one micro-batch, replayed on sizes alone. An op's record keeps its results and what its header
// says it saves until its backward has run; a gradient lives from its first term to its op's backward.
// Within a norm over x + residual both inputs get one gradient tensor, which is counted with the residual.

#include <cstdint>
#include <optional>
#include <vector>

namespace spanwise {

/// In elements.
struct SizedOp {
  int64_t value = 0;                ///< results
  std::vector<int> inputs;          ///< ops whose gradients this one adds to
  int64_t saved = 0;                ///< beside the results
  int64_t received = 0;             ///< results or saved, from other ranks: a recomputation finds them there
  int64_t awaited = 0;              ///< from other ranks, not saved: kept only for a recomputation to read
  int64_t forward = 0;              ///< temporaries of the first forward
  int64_t backward = 0;             ///< temporaries of backward
  std::optional<int64_t> gradient;  ///< of the results, where not as large as `value`: views, shared memory
  int64_t gradient_size() const { return gradient.value_or(value); }
};

class SizeTape {
 public:
  enum class Pass { kRecord, kRecomputation };
  explicit SizeTape(Pass pass = Pass::kRecord) : pass_(pass) {}

  /// Returns the op's number.
  int add(SizedOp op);
  /// What all records keep.
  int64_t live() const { return live_; }
  /// What a checkpointed segment's first forward leaves for its recomputation, and which part of it the
  /// recomputation does not keep.
  int64_t received() const { return received_ + awaited_; }
  int64_t awaited() const { return awaited_; }

  /// Most elements while the ops run, all being recorded.
  int64_t forward_peak() const { return forward_peak_; }
  /// The same while nothing is recorded: results go after their last reader, `saved` after its op.
  int64_t unrecorded_peak() const;
  /// Most elements while backward runs. `given`: op whose gradient is there before it, counted by the caller.
  int64_t backward_peak(int given = -1) const;

 private:
  Pass pass_;
  std::vector<SizedOp> ops_;
  int64_t live_ = 0, received_ = 0, awaited_ = 0, forward_peak_ = 0;
};

}  // namespace spanwise
