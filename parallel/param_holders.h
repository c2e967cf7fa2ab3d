#pragma once
// Which rank holds which elements of the whole parameters, of all ranks and known to all: what checkpoints
// send by. A rank is its position on the data × sequence axis and its rank on the tensor axis.

#include <vector>

#include "parallel/param_store.h"

namespace spanwise {

/// kOwned: each element once, from the lowest tensor rank that holds it. kHeld: all that a rank holds.
enum class HolderRuns { kOwned, kHeld };

class ParamHolders {
 public:
  /// Collective over the tensor axis. The store must outlive this. Error if some element has no holder.
  explicit ParamHolders(const ParamStore& params);

  const ParamStore& params() const { return params_; }
  int num_positions() const { return params_.data_sequence().size(); }
  int num_tensor_ranks() const { return params_.tensor().size(); }
  /// Whether each position has only its slices of `flat`, a buffer of the store; else all have all of it.
  bool sliced(const Tensor& flat) const;

  /// What a rank has of elements `piece` of a whole parameter, as `flat` is kept, in rising order: `local`
  /// counts from the first element of the rank's part, `global` from that of the piece.
  std::vector<ElementRun> runs(int entry, FlatRange piece, const Tensor& flat, int position, int tensor,
                               HolderRuns which) const;

 private:
  /// Of one parameter on one tensor rank.
  struct Part {
    int64_t offset = 0;  ///< of its first element in the flat buffers
    FlatRange bucket{0, 0};
    std::vector<Placement::Range> held, owned;  ///< along the sharded dim; of none both are empty
  };
  void exchange_parts();
  void find_owned();
  FlatRange stored(const Part& part, bool sliced, int position) const;

  const ParamStore& params_;
  std::vector<std::vector<Part>> parts_;  ///< [tensor rank][entry]
};

}  // namespace spanwise
