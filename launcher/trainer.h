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
//
// The sums of targets and losses also carry what ranks have to agree on: whether one of them was asked to end
// (parallel/stop_request.h), and whether a checkpoint is due by rank 0's clock.

#include <chrono>
#include <memory>
#include <optional>

#include "core/optim/schedule.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "launcher/checkpoint/checkpoint_saver.h"
#include "launcher/checkpoint/training_state.h"
#include "launcher/config/config.h"
#include "launcher/metrics/metrics.h"
#include "launcher/rank_batch.h"
#include "launcher/run_config.h"
#include "launcher/run_lock.h"
#include "models/language_model.h"
#include "parallel/gradient_reducer.h"
#include "parallel/mesh.h"
#include "parallel/param_store.h"
#include "parallel/sharded_adamw.h"
#include "parallel/stop_request.h"

namespace spanwise {

/// What `train` tells at its end.
struct TrainSummary {
  int64_t first_step = 0, last_step = 0;
  std::optional<double> loss_before, loss_after;  ///< held-out, nats a token
  std::string checkpoint;                         ///< the newest one
  bool stopped = false;                           ///< asked to end, and all that was trained is saved
};

/// Numbers that each of the two sums of a step holds, for plans.
inline constexpr int64_t kCountNumbers = 2, kLossNumbers = 3;

class Trainer {
 public:
  /// Builds everything, and goes on from the newest checkpoint as checkpoint.resume says. `config` has no
  /// config_problems. UserError for anything in the files that does not fit.
  Trainer(const RunConfig& config, const Tokenizer& tokenizer, const Mesh& mesh, Context& ctx,
          StopRequest* stop = nullptr);

  /// Records the config of this start (run_config.h). Collective.
  void record_config(SaveConfig save);

  /// Trains up to train.steps. Asked to end through `stop`, it finishes the step, saves it and returns; an
  /// evaluation is broken off.
  TrainSummary run();

 private:
  struct StepResult {
    double loss, grad_norm, lr, data_ms;
  };
  /// Nothing, and nothing is trained, if a rank was asked to end before it began.
  std::optional<StepResult> train_step(int64_t step);
  std::optional<double> held_out_loss() const;
  void write_metrics(int64_t step, const StepResult& result, double step_ms, std::optional<double> held_out);
  std::vector<std::pair<std::string, double>> traffic() const;
  /// Begins or ends the timeline of collectives around step number `step` of this start, counted from 1.
  void begin_trace(int64_t step);
  void end_trace(int64_t step);
  bool stopping() const { return stop_ && stop_->agreed(); }
  double stop_vote() const { return stop_ ? stop_->vote() : 0; }
  /// Adds up `values` over the data and sequence ranks, for all ranks of the world; the last of them is the
  /// votes to stop, of all ranks. True if a rank was asked to end.
  bool sum_and_agree(std::string_view name, std::vector<double>& values);
  /// On rank 0: takes run.dir and the checkpoints' directory again where they were moved or removed, making
  /// them anew.
  void reopen_directories();
  void save(int64_t step);
  std::optional<SaveOutcome> wait_for_save();
  void report(const std::optional<SaveOutcome>& outcome);
  void say(std::string_view text);

  std::unique_ptr<Progress> starting_;  ///< on rank 0 while this is made; first, so that it sees all of that
  RunConfig config_;
  const Mesh& mesh_;
  Context& ctx_;
  StopRequest* stop_;
  std::optional<RunLocks> locks_;  ///< rank 0 only; before and after all that writes there
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
  bool directories_lost_ = false;           ///< and could not be made again
  std::unique_ptr<MetricsWriter> metrics_;  ///< rank 0 only
  std::string newest_checkpoint_;
  static constexpr int64_t kNotSaved = -1;
  int64_t saved_step_ = 0;  ///< of the newest save, done or under way; kNotSaved if it failed
  std::chrono::steady_clock::time_point saved_at_;
  bool time_to_save_ =
      false;  ///< checkpoint.every_minutes have passed, or the last one was moved away; on all ranks
};

}  // namespace spanwise
