#pragma once
// One step of training, without what surrounds it (data, files, evaluation): the model, its parameters, and
//
//   count of target tokens over all ranks → per micro-batch forward, backward with loss scaled by 1/count →
//   gradients summed over ranks, during the last backward → global norm → clip → AdamW
//
// Trainer runs it, and on a dry Context a plan does (launcher/plan.h): the same code.
//
// On a GPU losses and norm stay there to the end of the step, where the host waits for it once.
// The loss and the gradients are those of the mean over the global batch's target tokens, whatever the rank
// count and micro-batch; a rank without targets adds zero.

#include <optional>
#include <string_view>
#include <vector>

#include "core/optim/schedule.h"
#include "launcher/config/config.h"
#include "launcher/objective.h"
#include "launcher/rank_batch.h"
#include "models/language_model.h"
#include "parallel/gradient_reducer.h"
#include "parallel/mesh.h"
#include "parallel/param_store.h"
#include "parallel/sharded_adamw.h"

namespace spanwise {

/// What ranks agree on beside the two sums of a step: by default nobody asks for anything.
class StepVotes {
 public:
  virtual ~StepVotes() = default;
  /// More than 0: this rank was asked to end.
  virtual double stop_vote() { return 0; }
  /// Told the sum of all ranks' votes to stop. True: all of them end.
  virtual bool agree_to_stop(double /*votes*/) { return false; }
  /// Whether this rank wants a checkpoint.
  virtual bool wants_checkpoint() { return false; }
};

struct StepResult {
  double loss = 0;  ///< mean over the global batch's targets; 0 where it has none
  double grad_norm = 0, lr = 0;
  bool save = false;  ///< a rank wants a checkpoint
};

class TrainStep {
 public:
  /// Builds model, parameters, reducer and optimizer as `config`, without config_problems, says. Collective.
  TrainStep(const RunConfig& config, int64_t tokenizer_vocab_size, const Mesh& mesh, Context& ctx);
  TrainStep(const TrainStep&) = delete;
  TrainStep& operator=(const TrainStep&) = delete;

  const LanguageModel& model() const { return model_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }
  ShardedAdamW& optimizer() { return optimizer_; }
  const ShardedAdamW& optimizer() const { return optimizer_; }
  const SequenceOptions& sequence() const { return sequence_; }

  /// This rank's part of a micro-batch of its data rank's rows.
  RankBatch part_of(Batch rows) const { return {ctx_, mesh_, sequence_, std::move(rows)}; }

  /// Target tokens of all ranks' batches. Nothing if the ranks agree to end before the step.
  std::optional<double> count_targets(const std::vector<RankBatch>& batches, StepVotes& votes);
  /// The step number `step`, counted from 1. The three below, in their order.
  StepResult train(const std::vector<RankBatch>& batches, double num_targets, int64_t step, StepVotes& votes);

  /// One micro-batch's forward and backward, whose gradients are added to those that are there. The loss.
  Tensor accumulate(const RankBatch& batch, double loss_scale);
  /// That for every micro-batch; then gradients are those of all ranks.
  void compute_gradients(const std::vector<RankBatch>& batches, double num_targets);
  /// Clipping and AdamW; gradients' memory goes.
  void update(int64_t step);
  /// Waits for the device, and sums the loss.
  StepResult finish(StepVotes& votes);

 private:
  /// Adds up `values` over the data and sequence ranks, for all ranks of the world; the last one, votes to
  /// stop, over all ranks. True if they agree to end.
  bool sum_and_agree(std::string_view name, std::vector<double>& values, StepVotes& votes);

  const Mesh& mesh_;
  Context& ctx_;
  config::OptimizerConfig optimizer_config_;
  Schedule schedule_;
  SequenceOptions sequence_;
  LanguageModel model_;
  NextToken objective_;
  ParamStore params_;
  GradientReducer reducer_;
  ShardedAdamW optimizer_;
  std::vector<Tensor> losses_;  ///< of the step's micro-batches
  Tensor squared_norm_;
  double lr_ = 0;
};

}  // namespace spanwise
