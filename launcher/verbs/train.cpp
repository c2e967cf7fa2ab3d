// spanwise train CONFIG|RUN_DIR [--set …]

#include <cmath>
#include <iostream>
#include <optional>

#include "core/progress.h"
#include "launcher/next_steps.h"
#include "launcher/objects.h"
#include "launcher/run_setup.h"
#include "launcher/sampling.h"
#include "launcher/trainer.h"
#include "launcher/verb.h"
#include "launcher/words.h"
#include "parallel/rank_zero.h"

namespace spanwise {

namespace {

// From the checkpoint, which any layout writes and one rank reads.
void print_sample(const RunConfig& config, const std::string& checkpoint, const StopRequest& stop) {
  const std::string& prompt = config.train().sample_prompt();
  if (prompt.empty()) return;
  RunConfig one_rank = config;
  one_rank.clear_parallel();
  const std::unique_ptr<Comm> self = make_self_comm();
  const TrainedModel trained = load_trained_model(one_rank, checkpoint, *self);
  std::optional<Progress> progress(ProgressOptions{.what = "sampling"});
  const std::string text =
      generate(*trained.model, *trained.tokenizer, *trained.ctx, prompt,
               {.num_tokens = config.train().sample_tokens(),
                .seed = config.run().seed(),
                .document_start = start_token(trained.document_start, *trained.tokenizer),
                .stop = [&stop] { return stop.agreed(); }});
  progress.reset();
  std::cout << "\nSample:\n  " << prompt << text << "\n";
}

void print_summary(const RunConfig& config, const TrainSummary& summary,
                   const std::vector<std::string>& next) {
  const std::string& dir = config.run().dir();
  std::cout << "\n";
  if (summary.first_step == summary.last_step) {
    std::cout << fmt::format("Nothing to train: step {} is done and train.steps is {}; raise it to go on.\n",
                             summary.last_step, config.train().steps());
  } else if (summary.loss_before) {
    std::cout << fmt::format("Held-out perplexity: {:.2f} at step {}, {:.2f} at step {}\n",
                             std::exp(*summary.loss_before), summary.first_step,
                             std::exp(*summary.loss_after), summary.last_step);
  }
  std::cout << fmt::format("Checkpoint:   {}\n", summary.checkpoint);
  if (config.metrics().tensorboard())
    std::cout << fmt::format("TensorBoard:  tensorboard --logdir {}\n", shell_word(dir + "/tensorboard"));
  std::cout << fmt::format("Metrics:      {}/metrics.jsonl\n\nNext:\n", dir);
  for (const std::string& command : next) std::cout << "  " << command << "\n";
  std::cout << std::flush;
}

void print_stop(const RunConfig& config, const TrainSummary& summary) {
  const std::string saved =
      summary.checkpoint.empty() ? "nothing was trained" : fmt::format("saved in {}", summary.checkpoint);
  std::cout << fmt::format(
                   "Asked to end after step {} of {}: {}. Start the same command again to go on (exit code "
                   "{}).\n",
                   summary.last_step, config.train().steps(), saved, kExitStopped)
            << std::flush;
}

}  // namespace

Usage train_usage() {
  return {
      .command = "[mpirun -n RANKS] spanwise train CONFIG|RUN_DIR [--set FIELD=VALUE …]",
      .description =
          "Trains the model of a config, going on from the newest checkpoint of its run.dir; RUN_DIR goes "
          "on with the config of that run. The first SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGUSR2 at "
          "any rank ends it after the step, saved, with exit code 75; the second at once.",
      .options = {{"set", "FIELD=VALUE", "override a field, in this start; may be repeated"},
                  {"save-config", nullptr,
                   "make this start's settings the run's, in run.dir/config.textproto"},
                  {"help", nullptr, "this text"}},
      .min_positional = 1,
      .max_positional = 1};
}

int run_train(Comm& world, const Arguments& arguments) {
  const RunConfig config = load_run_config(arguments.positional()[0], arguments, world);
  require_newest(arguments.positional()[0], config, world);
  const std::unique_ptr<Tokenizer> tokenizer = checked_tokenizer(config, world.size());
  const std::unique_ptr<Context> ctx = start_context(config, world);
  const Mesh mesh(world, mesh_shape(config, world.size()));
  StopRequest stop;
  std::optional<Trainer> trainer(std::in_place, config, *tokenizer, mesh, *ctx, &stop);
  const SaveConfig save = arguments.has("save-config") ? SaveConfig::kThisStart : SaveConfig::kFirstStart;
  trainer->record_config(save);
  const TrainSummary summary = trainer->run();
  // The sample's model takes the place of the trainer.
  trainer.reset();
  ctx->release_cache();
  if (!summary.stopped) {
    const auto sample = [&] {
      try {
        print_sample(config, summary.checkpoint, stop);
      } catch (const std::exception& error) {
        std::cout << fmt::format("warning: no sample, training is done: {}\n", error.what());
      }
      return std::string();
    };
    run_on_rank_zero(world, "sample", sample, &stop);
  }
  if (world.rank() == 0 && stop.agreed()) print_stop(config, summary);
  if (world.rank() == 0 && !stop.agreed()) {
    print_summary(config, summary,
                  next_steps(config, {.program = arguments.program(),
                                      .ranks = world.size(),
                                      .last_step = summary.last_step,
                                      .prompt = prompt_of(config, *tokenizer),
                                      .evaluates = summary.loss_before.has_value()}));
  }
  world.barrier("end_of_training");
  return stop.agreed() ? kExitStopped : 0;
}

}  // namespace spanwise
