// spanwise eval CONFIG|RUN_DIR [--checkpoint DIR] [--data PREFIX] [--sequences N]

#include <cmath>
#include <iostream>
#include <optional>

#include "core/json_quote.h"
#include "core/progress.h"
#include "launcher/evaluate.h"
#include "launcher/objects.h"
#include "launcher/run_setup.h"
#include "launcher/verb.h"

namespace spanwise {

namespace {

struct Evaluated {
  std::string checkpoint, data;
  int64_t sequences = 0;
  HeldOut result;
};

std::string text_of(const Evaluated& e, int64_t all_sequences) {
  return fmt::format(
      "checkpoint  {}\ndata        {}\nsequences   {} of {}\ntokens      {}\nloss        {:.6f} nats a "
      "token\n"
      "perplexity  {:.4f}\n",
      e.checkpoint, e.data, e.sequences, all_sequences, e.result.num_targets, e.result.loss,
      std::exp(e.result.loss));
}

std::string json_of(const Evaluated& e) {
  const double perplexity = std::exp(e.result.loss);
  const auto number = [](double x) { return std::isfinite(x) ? fmt::format("{}", x) : "null"; };
  return fmt::format(
      "{{\"checkpoint\":{},\"data\":{},\"sequences\":{},\"tokens\":{},\"loss\":{},\"perplexity\":{}}}\n",
      json_quote(e.checkpoint), json_quote(e.data), e.sequences, e.result.num_targets, number(e.result.loss),
      number(perplexity));
}

// Training evaluates the first train.eval_sequences only: another mean than one over all of them.
std::string difference_to_training(const RunConfig& config, const Evaluated& e,
                                   const SequentialLoader& loader) {
  const int64_t in_training = num_evaluated(loader, config.train().eval_sequences());
  if (e.data != config.data().validation() || e.sequences == in_training) return "";
  return fmt::format(
      "\nTraining evaluates {} of these sequences (train.eval_sequences); --sequences {} gives its figure.\n",
      in_training, in_training);
}

}  // namespace

Usage eval_usage() {
  return {.command = "[mpirun -n RANKS] spanwise eval CONFIG|RUN_DIR|CHECKPOINT [options]",
          .description =
              "Held-out loss and perplexity of a trained model, over every held-out token. Training "
              "itself evaluates the first train.eval_sequences.",
          .options = {{"checkpoint", "DIR", "a step_… directory; default: the run's newest"},
                      {"data", "PREFIX", "dataset without .bin and .idx; default: data.validation"},
                      {"sequences", "N", "first N sequences; default: all"},
                      {"json", nullptr, "print one JSON object"},
                      {"set", "FIELD=VALUE", "override a config field; may be repeated"},
                      {"help", nullptr, "this text"}},
          .min_positional = 1,
          .max_positional = 1};
}

int run_eval(Comm& world, const Arguments& arguments) {
  const int64_t sequences = arguments.integer("sequences", 0, 1, INT64_MAX);
  const RunConfig config = load_run_config(arguments.positional()[0], arguments, world);
  const TrainedModel trained =
      load_trained_model(config, checkpoint_argument(arguments.positional()[0], arguments, world), world,
                         {option_fact("sequences", arguments.get("sequences")),
                          option_fact("data", arguments.has("data") ? "given" : "")});
  const std::string data = arguments.get("data", config.data().validation());
  if (data.empty())
    fail_user("There is nothing to evaluate on: set data.validation in the config or give --data PREFIX.");
  SequentialLoader loader(data, config.train().sequence_length(), trained.model->options().vocab_size);
  loader.dataset().check_tokenizer(*trained.tokenizer);
  if (world.rank() == 0 && !loader.dataset().meta())
    std::cerr << fmt::format("{} is unverified: it has no table of checksums, {}\n", data, meta_path(data));
  const std::string other =
      document_start_problem(trained.document_start, *trained.tokenizer, loader.dataset());
  if (!other.empty()) fail_user("{}", other);
  loader.set_documents(document_rule(trained.document_start, *trained.tokenizer));
  const std::string compared = agree_on_data(world, loader);
  if (world.rank() == 0 && !compared.empty()) std::cerr << compared << "\n";
  EvaluateOptions options{.max_sequences = sequences, .micro_batch = config.train().micro_batch()};
  const int64_t count = num_evaluated(loader, sequences);
  std::optional<Progress> progress;
  if (world.rank() == 0) {
    progress.emplace(progress_on_stderr("evaluating", "sequences", count));
    options.progress = [&](int64_t done) { progress->advance_to(done); };
  }
  const HeldOut result = *evaluate(*trained.model, loader, *trained.mesh,
                                   sequence_options(config, *trained.mesh), *trained.ctx, options);
  progress.reset();
  if (!std::isfinite(result.loss)) {
    fail_user(
        "The loss of {} on {} is {}: its weights are finite, but what they compute is not; use an earlier "
        "checkpoint.",
        trained.checkpoint, data, result.loss);
  }
  if (world.rank() > 0) return 0;
  const Evaluated evaluated{
      .checkpoint = trained.checkpoint, .data = data, .sequences = count, .result = result};
  if (arguments.has("json")) {
    std::cout << json_of(evaluated) << std::flush;
  } else {
    std::cout << text_of(evaluated, loader.num_samples()) << difference_to_training(config, evaluated, loader)
              << std::flush;
  }
  return 0;
}

}  // namespace spanwise
