// spanwise generate CONFIG|RUN_DIR [--prompt TEXT] [--tokens N] [--temperature X] [--top-p P] [--seed S]

#include <iostream>

#include "launcher/run_setup.h"
#include "launcher/sampling.h"
#include "launcher/verb.h"

namespace spanwise {

Usage generate_usage() {
  return {
      .command = "spanwise generate CONFIG|RUN_DIR|CHECKPOINT [options]",
      .description = "Continues a prompt with a trained model.",
      .options = {{"prompt", "TEXT", "text to continue; default: a new document"},
                  {"tokens", "N", "most tokens to generate; default 100"},
                  {"temperature", "X", "0 takes the likeliest token; default 0.8"},
                  {"top-p", "P", "draw from the likeliest tokens that hold this probability; default 0.95"},
                  {"seed", "S", "another seed, another text; default 1"},
                  {"checkpoint", "DIR", "a step_… directory; default: the run's newest"},
                  {"set", "FIELD=VALUE", "override a config field; may be repeated"},
                  {"help", nullptr, "this text"}},
      .min_positional = 1,
      .max_positional = 1};
}

int run_generate(Comm& world, const Arguments& arguments) {
  if (world.size() > 1)
    fail_user("'generate' runs on one rank, not on {}; start it without mpirun.", world.size());
  SamplingOptions options{.num_tokens = arguments.integer("tokens", 100, 1, int64_t{1} << 40),
                          .temperature = arguments.number("temperature", 0.8, 0, 100),
                          .top_p = arguments.number("top-p", 0.95, 1e-9, 1),
                          .seed = uint64_t(arguments.integer("seed", 1, 0, INT64_MAX))};
  RunConfig config = load_run_config(arguments.positional()[0], arguments, world);
  config.clear_parallel();  // checkpoints have no layout: one rank reads what any number wrote
  const TrainedModel trained =
      load_trained_model(config, checkpoint_argument(arguments.positional()[0], arguments, world), world);
  options.document_start = start_token(trained.document_start, *trained.tokenizer);
  std::cout << arguments.get("prompt") << std::flush;
  generate(*trained.model, *trained.tokenizer, *trained.ctx, arguments.get("prompt"), options,
           [](const std::string& piece) { std::cout << piece << std::flush; });
  std::cout << "\n";
  return 0;
}

}  // namespace spanwise
