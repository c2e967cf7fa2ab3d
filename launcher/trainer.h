#pragma once
// The training loop. One step:
//
//   this data rank's rows of the global batch, this sequence rank's spans of them → TrainStep
//   (launcher/train_step.h) → metrics, evaluation, checkpoint
//
// The step's sums of targets and losses also carry what ranks have to agree on: whether one of them was asked
// to end (parallel/stop_request.h), and whether a checkpoint is due by rank 0's clock.

#include <chrono>
#include <memory>
#include <optional>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "launcher/checkpoint/checkpoint_saver.h"
#include "launcher/checkpoint/training_state.h"
#include "launcher/config/config.h"
#include "launcher/metrics/metrics.h"
#include "launcher/run_config.h"
#include "launcher/run_lock.h"
#include "launcher/train_step.h"
#include "parallel/mesh.h"
#include "parallel/stop_request.h"

namespace spanwise {

/// What `train` tells at its end.
struct TrainSummary {
  int64_t first_step = 0, last_step = 0;
  std::optional<double> loss_before, loss_after;  ///< held-out, nats a token
  std::string checkpoint;                         ///< the newest one
  bool stopped = false;                           ///< asked to end, and all that was trained is saved
};

class Trainer : private StepVotes {
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
  struct Trained : StepResult {
    double data_ms = 0;
    double flops = 0;  ///< of the model, on this rank
  };
  /// Nothing, and nothing is trained, if a rank was asked to end before it began.
  std::optional<Trained> train_step(int64_t step);
  std::optional<double> held_out_loss() const;
  void write_metrics(int64_t step, const Trained& result, double step_ms, std::optional<double> held_out);
  std::vector<std::pair<std::string, double>> traffic() const;
  /// Begins or ends the timeline of collectives around step number `step` of this start, counted from 1.
  void begin_trace(int64_t step);
  void end_trace(int64_t step);
  bool stopping() const { return stop_ && stop_->agreed(); }
  // StepVotes.
  double stop_vote() override { return stop_ ? stop_->vote() : 0; }
  bool agree_to_stop(double votes) override { return stop_ && stop_->agree(votes); }
  /// On rank 0: time has passed, or a directory has gone.
  bool wants_checkpoint() override;
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
  TrainStep step_;
  std::optional<CheckpointSaver> saver_;
  TrainingState state_;
  Loader loader_;
  std::optional<SequentialLoader> validation_;
  bool directories_lost_ = false;           ///< and could not be made again
  std::unique_ptr<MetricsWriter> metrics_;  ///< rank 0 only
  std::string newest_checkpoint_;
  std::optional<double> peak_flops_;  ///< of this rank's GPU, where that is known
  static constexpr int64_t kNotSaved = -1;
  int64_t saved_step_ = 0;  ///< of the newest save, done or under way; kNotSaved if it failed
  std::chrono::steady_clock::time_point saved_at_;
  bool time_to_save_ =
      false;  ///< checkpoint.every_minutes have passed, or the last one was moved away; on all ranks
};

}  // namespace spanwise
