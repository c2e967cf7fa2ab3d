#pragma once
// The tape of one micro-batch, replayed on sizes alone. An op's result lives until its last reader of the
// forward has run; if backward reads it, until the first op that does so is done with it; if backward
// recomputes it, it goes after the forward and is there again from the last op that reads it on. What an op
// saves beside results lives from its forward to its backward; a gradient from its first term to its op's
// backward. Within a norm over x + residual both inputs get one gradient tensor, which is counted with the
// residual.

#include <cstdint>
#include <optional>
#include <vector>

namespace spanwise {

/// In elements.
struct SizedOp {
  int64_t value = 0;           ///< results
  std::vector<int> inputs;     ///< ops whose results this one reads and whose gradients it adds to
  std::vector<int> beside;     ///< ops whose results it reads, and whose gradients are counted elsewhere
  std::vector<int> reads;      ///< ops whose results its backward reads
  bool reads_result = false;   ///< its backward reads its own result
  std::optional<int> view_of;  ///< the result is another op's memory; `value` is 0 then
  std::optional<std::vector<int>> recompute;  ///< the result is recomputed from these ops' results
  int64_t saved = 0;                          ///< beside the results
  bool recompute_saved = false;               ///< `saved` is made again with the result
  bool value_received = false;      ///< the result came from other ranks: a recomputation finds it there
  int64_t received = 0;             ///< saved, and from other ranks
  int64_t awaited = 0;              ///< from other ranks, not saved: kept only for a recomputation to read
  int64_t forward = 0;              ///< temporaries of the first forward
  int64_t backward = 0;             ///< temporaries of backward
  int64_t arrives = 0;              ///< from its backward on, to stay: gradients of parameters
  std::optional<int64_t> gradient;  ///< of the results, where not as large as `value`: views, shared memory
  int64_t gradient_size() const { return gradient.value_or(value); }
};

class SizeTape {
 public:
  enum class Pass { kRecord, kRecomputation };  ///< a recomputation keeps what the segment's backward reads
  explicit SizeTape(Pass pass = Pass::kRecord) : pass_(pass) {}

  /// Returns the op's number.
  int add(SizedOp op);
  /// What lives after the ops so far.
  int64_t live() const;
  /// What a checkpointed segment's first forward leaves for its recomputation, and which part of it the
  /// recomputation does not keep.
  int64_t received() const;
  int64_t awaited() const;

  /// Most elements while the ops run, all being recorded.
  int64_t forward_peak() const;
  /// The same while nothing is recorded: results go after their last reader, `saved` after its op.
  int64_t unrecorded_peak() const;
  /// Most elements while backward runs. `given`: op whose gradient is there before it, counted by the caller.
  int64_t backward_peak(int given = -1) const;

 private:
  // Forward of op i happens at time i, its backward at 2n − 1 − i.
  struct Span {
    int begin, end;
    int64_t size;
  };
  std::vector<Span> spans() const;
  std::vector<int64_t> live_at_each_time() const;
  std::vector<int> last_readers() const;
  int memory_of(int op) const;

  Pass pass_;
  std::vector<SizedOp> ops_;
};

}  // namespace spanwise
