#include <cmath>

#include "core/dispatch.h"
#include "launcher/config/checks.h"
#include "launcher/config/derived.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"
#include "launcher/runtime.h"

namespace spanwise {

using config::OptimizerConfig;
using config::TokenizerConfig;
using config::TrainConfig;

namespace {

/// The most hardware threads of a machine, and some; the system refuses to start a team of many more.
constexpr int64_t kMostThreads = 1024;

void check_device(const ConfigToCheck& checked, Problems& problems) {
  const auto precision = checked.config.train().precision();
  const bool on_gpu = compute_device(checked.config) == Device::kCUDA;
  if (on_gpu && !kHasCuda && checked.use != ConfigUse::kPlan) {
    problems.add("device CUDA is not in this build; set device: CPU or AUTO");
  } else if (on_gpu && precision == TrainConfig::F64) {
    problems.add("train.precision F64 is for the CPU; set train.precision: F32 or BF16, or device: CPU");
  } else if (!on_gpu && precision == TrainConfig::BF16) {
    problems.add(
        "train.precision BF16 needs a GPU and this run computes on the CPU; set train.precision: F32");
  }
}

void check_metrics(const ConfigToCheck& checked, Problems& problems) {
  const int64_t steps = checked.config.metrics().trace_steps();
  if (!problems.at_least(0, "metrics.trace_steps", steps) || steps == 0) return;
  if (checked.world_size == 1 || compute_device(checked.config) == Device::kCPU) {
    problems.add(
        "metrics.trace_steps is {} and there is nothing to time: it times collectives between several GPUs; "
        "set "
        "metrics.trace_steps: 0",
        steps);
  }
}

void check_recomputation(const RunConfig& config, Problems& problems) {
  const TrainConfig& train = config.train();
  const int64_t mlps = train.recompute_mlp_layers(), layers = num_layers(config.model());
  if (mlps < 0 || mlps > layers) {
    problems.add("train.recompute_mlp_layers is {}; it must be from 0 to the number of layers, {}", mlps,
                 layers);
  }
  if (train.recompute_mixers() && !has_linear_mixer(config.model()))
    problems.add("train.recompute_mixers is true and no layer has a linear mixer; set it to false");
  if (train.activation_checkpointing() && (train.recompute_mixers() || mlps > 0)) {
    problems.add(
        "train.activation_checkpointing recomputes whole blocks; leave out train.recompute_mixers and "
        "train.recompute_mlp_layers");
  }
}

/// Only a decay of given length can contradict the warm-up; any run may end while the rate still rises.
void check_schedule(const RunConfig& config, Problems& problems) {
  const OptimizerConfig& optimizer = config.optimizer();
  bool ok = problems.at_least(0, "optimizer.warmup_steps", optimizer.warmup_steps());
  ok &= problems.at_least(0, "optimizer.decay_steps", optimizer.decay_steps());
  ok &= problems.at_least(0, "optimizer.schedule_steps", optimizer.schedule_steps());
  if (!ok || optimizer.schedule() != OptimizerConfig::WSD || optimizer.decay_steps() == 0) return;
  const int64_t needed = optimizer.warmup_steps() + optimizer.decay_steps();
  if (needed <= schedule_steps(config)) return;
  problems.add(
      "optimizer.warmup_steps {} + optimizer.decay_steps {} is more than the {} steps of {}; "
      "lower them or set optimizer.schedule_steps: {}",
      optimizer.warmup_steps(), optimizer.decay_steps(), schedule_steps(config),
      optimizer.schedule_steps() > 0 ? "optimizer.schedule_steps" : "train.steps", needed);
}

}  // namespace

void check_run(const ConfigToCheck& checked, Problems& problems) {
  const RunConfig& config = checked.config;
  if (config.run().dir().empty())
    problems.add("run.dir is empty; name the run's directory, e.g. run {{ dir: \"runs/first\" }}");
  if (checked.trains()) problems.at_least(1, "run.log_every", config.run().log_every());
  check_device(checked, problems);
  if (checked.trains()) check_metrics(checked, problems);
}

void check_train(const ConfigToCheck& checked, Problems& problems) {
  const TrainConfig& train = checked.config.train();
  problems.at_least(1, "train.sequence_length", train.sequence_length());
  problems.at_least(0, "train.loss_chunk_tokens", train.loss_chunk_tokens());
  problems.at_least(0, "train.eval_sequences", train.eval_sequences());
  problems.at_least(0, "train.threads", train.threads(), kMostThreads);
  if (!checked.trains()) return;
  problems.at_least(1, "train.steps", train.steps());
  if (problems.at_least(0, "train.eval_every", train.eval_every()) && train.eval_every() > 0 &&
      checked.config.data().validation().empty()) {
    problems.add(
        "train.eval_every is {} and data.validation is empty; name a held-out dataset or set "
        "train.eval_every: 0",
        train.eval_every());
  }
  problems.at_least(1, "train.sample_tokens", train.sample_tokens());
  check_recomputation(checked.config, problems);
}

void check_data(const ConfigToCheck& checked, Problems& problems) {
  const config::DataConfig& data = checked.config.data();
  if (data.train().empty() && checked.trains()) {
    problems.add(
        "data.train is empty; name a dataset made by `spanwise data prepare`, "
        "e.g. data {{ train {{ path: \"runs/data/train\" }} }}");
  }
  for (int i = 0; checked.trains() && i < data.train_size(); ++i) {
    if (data.train(i).path().empty())
      problems.add("data.train[{}].path is empty; name the dataset without .bin and .idx", i);
    problems.positive(fmt::format("data.train[{}].weight", i), data.train(i).weight());
  }
  const TokenizerConfig& tokenizer = data.tokenizer();
  if (tokenizer.kind() == TokenizerConfig::SENTENCEPIECE && tokenizer.model().empty())
    problems.add(
        "data.tokenizer.model is empty and data.tokenizer.kind is SENTENCEPIECE; name the .model file");
  const int64_t vocab_size = checked.config.model().vocab_size(),
                least = checked.tokenizer_vocab_size.value_or(0);
  if (vocab_size > 0 && vocab_size < least) {
    problems.add(
        "model.vocab_size {} is below the {} tokens of the tokenizer ({}); set model.vocab_size: 0 or at "
        "least {}",
        vocab_size, least,
        tokenizer.kind() == TokenizerConfig::BYTES ? "data.tokenizer.kind BYTES"
                                                   : "data.tokenizer.model " + tokenizer.model(),
        least);
  }
}

void check_optimizer(const RunConfig& config, Problems& problems) {
  const OptimizerConfig& optimizer = config.optimizer();
  problems.positive("optimizer.learning_rate", optimizer.learning_rate());
  problems.fraction("optimizer.min_learning_rate_ratio", optimizer.min_learning_rate_ratio(), true);
  problems.fraction("optimizer.beta1", optimizer.beta1(), false);
  problems.fraction("optimizer.beta2", optimizer.beta2(), false);
  problems.positive("optimizer.eps", optimizer.eps());
  problems.not_negative("optimizer.weight_decay", optimizer.weight_decay());
  problems.not_negative("optimizer.clip_norm", optimizer.clip_norm());
  check_schedule(config, problems);
}

void check_checkpoint(const RunConfig& config, Problems& problems) {
  problems.at_least(0, "checkpoint.every", config.checkpoint().every());
  const double minutes = config.checkpoint().every_minutes();
  if (!(minutes >= 0 && std::isfinite(minutes))) {
    problems.add("checkpoint.every_minutes is {}; it must be 0 (never by time) or above, and finite",
                 minutes);
  }
  problems.at_least(0, "checkpoint.keep_last", config.checkpoint().keep_last());
}

}  // namespace spanwise
