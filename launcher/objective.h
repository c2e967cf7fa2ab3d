#pragma once
// What training minimises, over one model's micro-batches.

#include "launcher/rank_batch.h"
#include "models/language_model.h"

namespace spanwise {

class Objective {
 public:
  virtual ~Objective() = default;
  /// Of this rank's part of a micro-batch: loss_scale times the sum over its targets, one element, recorded
  /// on `tape`. With loss_scale = 1 / (all targets of a step) the ranks' and micro-batches' sum is the mean.
  /// Shapes depend on the batch's layout alone, never on values: a plan runs this, too.
  virtual Var loss(Tape& tape, const RankBatch& batch, double loss_scale) const = 0;
};

/// −ln p(next token), of a model that must outlive it.
class NextToken final : public Objective {
 public:
  explicit NextToken(const LanguageModel& model) : model_(model) {}
  Var loss(Tape& tape, const RankBatch& batch, double loss_scale) const override {
    return model_.loss(tape, batch.tokens(), loss_scale);
  }

 private:
  const LanguageModel& model_;
};

}  // namespace spanwise
