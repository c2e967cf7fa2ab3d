#pragma once
// A micro-batch as one rank sees it: the whole rows of its data rank, or this sequence rank's span of each.

#include <memory>
#include <vector>

#include "data/loader.h"
#include "models/language_model.h"
#include "parallel/mesh.h"
#include "parallel/sequence_parallel.h"

namespace spanwise {

/// How the sequence axis divides rows.
struct SequenceOptions {
  Partition partition = Partition::kContiguous;
  SequenceParallelOptions parallel;
};

class RankBatch {
 public:
  /// `batch`: the whole rows, the same on every rank of the sequence and tensor axes. Must outlive every
  /// backward of what was computed from it, as must the mesh.
  RankBatch(Context& ctx, const Mesh& mesh, const SequenceOptions& options, Batch batch);

  TokenBatch tokens() const;
  /// Labels that count, on this rank.
  int64_t num_targets() const;

 private:
  std::vector<int32_t> tokens_, labels_;
  std::unique_ptr<SequenceLayout> layout_;      ///< of whole rows
  std::unique_ptr<SequencePlan> plan_;          ///< of spans
  std::unique_ptr<SequenceParallel> sequence_;  ///< of spans
};

}  // namespace spanwise
