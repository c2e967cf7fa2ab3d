#pragma once
// The tokens just before each local row, fetched from the ranks that hold them in one grouped exchange, and
// the way back for their gradients. A rank receives Σ over its rows of min(width, tokens of the document
// before the part) tokens, less those it holds itself; rows of several parts are crossed where parts are
// short.

#include <string_view>
#include <vector>

#include "parallel/comm.h"
#include "parallel/sequence_partition.h"

namespace spanwise {

class Halo {
 public:
  /// `plan` must outlive this object. width ≥ 1.
  Halo(const SequencePlan& plan, int64_t width);

  /// x [R, capacity, C], a column block perhaps → [R, width, C]: the last entry of a row is the token before
  /// its first one. Zeros where those tokens belong to another document or do not exist.
  Tensor fetch(Context& ctx, Comm& comm, std::string_view name, const Tensor& x) const;
  /// Adds (+=) the gradient of what fetch gave to the owners' dx [R, capacity, C], contiguous.
  void give_back(Context& ctx, Comm& comm, std::string_view name, const Tensor& dhalo,
                 const Tensor& dx) const;
  /// Tokens received from other ranks by fetch.
  int64_t received_tokens() const;
  /// Tokens sent to other ranks by fetch, whose gradients give_back receives.
  int64_t given_tokens() const;

 private:
  /// `count` tokens of one local row of a rank that another one's halo shows; in tokens of the flat tensors.
  struct Piece {
    int from_rank, to_rank;
    int64_t from, to, count;
  };
  /// Tokens of the pieces from one rank to another: the length of their message.
  int64_t tokens_between(int from_rank, int to_rank) const;

  const SequencePlan& plan_;
  int64_t width_;
  std::vector<Piece> pieces_;  ///< that this rank gives or takes, in one order on all ranks
};

/// Width of the halo that attention with a window > 0 needs on rows of `length` tokens: at least one.
int64_t window_halo_width(int64_t window, int64_t length);

}  // namespace spanwise
