#pragma once
// The training loop. One step:
//
//   this data rank's rows of the global batch, this sequence rank's spans of them → count of target tokens
//   over all ranks → per micro-batch forward, backward with loss scaled by 1/count → gradients summed over
//   ranks, during the last backward → global norm → clip → AdamW → metrics, evaluation, checkpoint
//
// On a GPU losses and norm stay there to the end of the step, where the host waits for it once.
// The loss and the gradients are those of the mean over the global batch's target tokens, whatever the rank
// count and micro-batch; a rank without targets adds zero.

#include <memory>
#include <optional>

#include "core/optim/schedule.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "launcher/checkpoint/checkpoint_saver.h"
#include "launcher/checkpoint/training_state.h"
#include "launcher/config.h"
#include "launcher/metrics/metrics.h"
#include "launcher/rank_batch.h"
#include "models/language_model.h"
#include "parallel/gradient_reducer.h"
#include "parallel/mesh.h"
#include "parallel/param_store.h"
#include "parallel/sharded_adamw.h"

namespace spanwise {

/// What `train` tells at its end.
struct TrainSummary {
  int64_t first_step = 0, last_step = 0;
  std::optional<double> loss_before, loss_after;  ///< held-out, nats a token
  std::string checkpoint;                         ///< the newest one
};

class Trainer {
 public:
  /// Builds everything, and goes on from the newest checkpoint as checkpoint.resume says. `config` has no
  /// config_problems. UserError for anything in the files that does not fit.
  Trainer(const RunConfig& config, const Tokenizer& tokenizer, const Mesh& mesh, Context& ctx);

  /// Trains up to train.steps.
  TrainSummary run();

 private:
  struct StepResult {
    double loss, grad_norm, lr, data_ms;
  };
  StepResult train_step(int64_t step);
  std::optional<double> held_out_loss() const;
  void write_metrics(int64_t step, const StepResult& result, double step_ms, std::optional<double> held_out);
  std::vector<std::pair<std::string, double>> traffic() const;
  /// Begins or ends the timeline of collectives around step number `step` of this start, counted from 1.
  void begin_trace(int64_t step);
  void end_trace(int64_t step);
  void save(int64_t step);
  void report(const std::optional<SaveOutcome>& outcome);
  void say(std::string_view text);

  RunConfig config_;
  const Mesh& mesh_;
  Context& ctx_;
  LanguageModel model_;
  SequenceOptions sequence_;
  ParamStore params_;
  GradientReducer reducer_;
  ShardedAdamW optimizer_;
  std::optional<CheckpointSaver> saver_;
  TrainingState state_;
  Schedule schedule_;
  Loader loader_;
  std::optional<SequentialLoader> validation_;
  std::unique_ptr<MetricsWriter> metrics_;  ///< rank 0 only
  std::string newest_checkpoint_;
};

}  // namespace spanwise
