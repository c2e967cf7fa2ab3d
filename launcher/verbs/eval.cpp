// spanwise eval CONFIG|RUN_DIR [--checkpoint DIR] [--data PREFIX] [--sequences N]

#include <cmath>
#include <iostream>

#include "launcher/build_model.h"
#include "launcher/evaluate.h"
#include "launcher/run_setup.h"
#include "launcher/verb.h"

namespace spanwise {

Usage eval_usage() {
  return {.command = "[mpirun -n RANKS] spanwise eval CONFIG|RUN_DIR [options]",
          .description = "Held-out loss and perplexity of a trained model.",
          .options = {{"checkpoint", "DIR", "a step_… directory; default: the run's newest"},
                      {"data", "PREFIX", "dataset without .bin and .idx; default: data.validation"},
                      {"sequences", "N", "first N sequences; default: all"},
                      {"set", "FIELD=VALUE", "override a config field; may be repeated"},
                      {"help", nullptr, "this text"}},
          .min_positional = 1,
          .max_positional = 1};
}

int run_eval(Comm& world, const Arguments& arguments) {
  const int64_t sequences = arguments.integer("sequences", 0, 1, INT64_MAX);
  const RunConfig config = load_run_config(arguments.positional()[0], arguments);
  const TrainedModel trained =
      load_trained_model(config, arguments.get("checkpoint"), world,
                         {option_fact("sequences", arguments.get("sequences")),
                          option_fact("data", arguments.has("data") ? "given" : "")});
  const std::string data = arguments.get("data", config.data().validation());
  if (data.empty())
    fail_user("There is nothing to evaluate on: set data.validation in the config or give --data PREFIX.");
  SequentialLoader loader(data, config.train().sequence_length(), trained.model->options().vocab_size);
  loader.set_documents(document_rule(trained.document_start, *trained.tokenizer));
  agree_on_data(world, loader);
  const HeldOut result = *evaluate(*trained.model, loader, *trained.mesh, sequence_options(config),
                                   *trained.ctx, sequences, config.train().micro_batch());
  if (!std::isfinite(result.loss)) {
    fail_user(
        "The loss of {} on {} is {}: its weights are finite, but what they compute is not; use an earlier "
        "checkpoint.",
        trained.checkpoint, data, result.loss);
  }
  if (world.rank() == 0) {
    std::cout << fmt::format(
        "checkpoint  {}\ndata        {}\ntokens      {}\nloss        {:.6f} nats a token\nperplexity  "
        "{:.4f}\n",
        trained.checkpoint, data, result.num_targets, result.loss, std::exp(result.loss));
  }
  return 0;
}

}  // namespace spanwise
