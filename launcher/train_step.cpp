#include "launcher/train_step.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/ops/scalars.h"
#include "launcher/objects.h"

namespace spanwise {

TrainStep::TrainStep(const RunConfig& config, int64_t tokenizer_vocab_size, const Mesh& mesh, Context& ctx)
    : mesh_(mesh),
      ctx_(ctx),
      optimizer_config_(config.optimizer()),
      schedule_(schedule_of(config)),
      sequence_(sequence_options(config, mesh)),
      model_(language_model_options(config, tokenizer_vocab_size, mesh)),
      objective_(model_),
      params_(ctx, model_, param_store_options(config, model_), mesh.data_sequence(), mesh.tensor()),
      reducer_(params_),
      optimizer_(params_) {
  if (params_.zero_stage() == 3) model_.set_param_gate(&params_);
}

std::optional<double> TrainStep::count_targets(const std::vector<RankBatch>& batches, StepVotes& votes) {
  int64_t targets = 0;
  for (const RankBatch& batch : batches) targets += batch.num_targets();
  std::vector<double> total{double(targets), votes.stop_vote()};
  if (sum_and_agree("target_count", total, votes)) return std::nullopt;
  return total[0];
}

StepResult TrainStep::train(const std::vector<RankBatch>& batches, double num_targets, int64_t step,
                            StepVotes& votes) {
  compute_gradients(batches, num_targets);
  update(step);
  return finish(votes);
}

Tensor TrainStep::accumulate(const RankBatch& batch, double loss_scale) {
  Tape tape(ctx_);
  const Var loss = objective_.loss(tape, batch, loss_scale);
  tape.backward(loss);
  return loss.value();
}

void TrainStep::compute_gradients(const std::vector<RankBatch>& batches, double num_targets) {
  const double scale = num_targets > 0 ? 1.0 / num_targets : 0.0;
  losses_.clear();
  for (const RankBatch& batch : batches) {
    if (&batch == &batches.back()) reducer_.expect_last_backward();
    losses_.push_back(accumulate(batch, scale));
  }
  reducer_.finish();
}

void TrainStep::update(int64_t step) {
  lr_ = learning_rate(schedule_, step);
  squared_norm_ = optimizer_.squared_grad_norm();
  const config::OptimizerConfig& o = optimizer_config_;
  optimizer_.step({.lr = lr_,
                   .beta1 = o.beta1(),
                   .beta2 = o.beta2(),
                   .eps = o.eps(),
                   .weight_decay = o.weight_decay(),
                   .step = step},
                  {.squared_norm = squared_norm_, .max_norm = o.clip_norm()});
}

StepResult TrainStep::finish(StepVotes& votes) {
  // The one place of a step where the host waits for a GPU.
  std::vector<Tensor> scalars = std::move(losses_);
  losses_.clear();
  scalars.push_back(std::move(squared_norm_));
  std::vector<double> values = read_scalars(ctx_, scalars);
  StepResult result{.grad_norm = std::sqrt(values.back()), .lr = lr_};
  values.pop_back();
  std::vector<double> sums{std::accumulate(values.begin(), values.end(), 0.0),
                           votes.wants_checkpoint() ? 1.0 : 0.0, votes.stop_vote()};
  sum_and_agree("loss", sums, votes);
  result.loss = sums[0];
  result.save = sums[1] > 0;
  return result;
}

bool TrainStep::sum_and_agree(std::string_view name, std::vector<double>& values, StepVotes& votes) {
  // Ranks of a tensor group have the same numbers, but not the same signals.
  if (mesh_.tensor().rank() > 0) std::fill(values.begin(), values.end() - 1, 0.0);
  mesh_.world().all_reduce(name, values);
  return votes.agree_to_stop(values.back());
}

}  // namespace spanwise
