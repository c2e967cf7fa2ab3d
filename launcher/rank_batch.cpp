#include "launcher/rank_batch.h"

#include <algorithm>

namespace spanwise {

RankBatch::RankBatch(Context& ctx, const Mesh& mesh, const SequenceOptions& options, Batch batch) {
  if (mesh.sequence().size() == 1) {
    layout_ = std::make_unique<SequenceLayout>(batch.num_sequences, batch.sequence_length,
                                               std::move(batch.document_starts));
    tokens_ = std::move(batch.tokens);
    labels_ = std::move(batch.labels);
    return;
  }
  const SequencePartition partition(options.partition, mesh.sequence().size(), batch.sequence_length);
  plan_ = std::make_unique<SequencePlan>(partition, mesh.sequence().rank(), batch.num_sequences,
                                         std::move(batch.document_starts));
  sequence_ = std::make_unique<SequenceParallel>(ctx, mesh.sequence(), *plan_, options.parallel);
  tokens_ = plan_->take(batch.tokens, 0);
  labels_ = plan_->take(batch.labels, kIgnoreLabel);
}

TokenBatch RankBatch::tokens() const {
  return {tokens_, labels_, plan_ ? plan_->local() : *layout_, sequence_.get()};
}

int64_t RankBatch::num_targets() const {
  return int64_t(labels_.size()) - std::count(labels_.begin(), labels_.end(), kIgnoreLabel);
}

}  // namespace spanwise
