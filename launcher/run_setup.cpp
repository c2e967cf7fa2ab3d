#include "launcher/run_setup.h"

#include <filesystem>
#include <optional>

#include "core/file_io.h"
#include "core/progress.h"
#include "launcher/build_info.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/load_state.h"
#include "launcher/checkpoint/run_manifest.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"
#include "launcher/run_dir.h"
#include "launcher/runtime.h"

namespace spanwise {

namespace fs = std::filesystem;

namespace {

// Rank 0's file system decides, which the others need not see.
bool names_checkpoint(const std::string& where, Comm& world) {
  std::vector<double> is_one{world.rank() == 0 && is_checkpoint(where) ? 1.0 : 0.0};
  world.all_reduce("is_checkpoint", is_one, Reduce::kMax);
  return is_one[0] > 0;
}

}  // namespace

RunConfig load_run_config(const std::string& where, const Arguments& arguments, Comm& world) {
  const std::vector<std::string> overrides = arguments.all("set");
  const RunConfig config = names_checkpoint(where, world) ? load_run_dir(run_of_checkpoint(where), overrides)
                           : fs::is_directory(where)      ? load_run_dir(where, overrides)
                                                          : load_config(where, overrides);
  say_warnings(config, world);
  return config;
}

void say_warnings(const RunConfig& config, Comm& world) {
  if (world.rank() > 0) return;
  for (const std::string& warning : config_warnings(config)) fmt::print(stderr, "warning: {}\n", warning);
}

std::string checkpoint_argument(const std::string& where, const Arguments& arguments, Comm& world) {
  return arguments.get("checkpoint", names_checkpoint(where, world) ? where : "");
}

void require_newest(const std::string& where, const RunConfig& config, Comm& world) {
  if (!names_checkpoint(where, world) || world.rank() > 0) return;
  const auto newest = newest_checkpoint(checkpoint_dir(config));
  std::error_code ignored;
  if (newest && fs::equivalent(*newest, where, ignored)) return;
  fail_user(
      "{} is not the newest checkpoint of {}, from which a run goes on; name the run directory, move newer "
      "checkpoints away, or start a new run with checkpoint.init_from",
      where, config.run().dir());
}

std::unique_ptr<Tokenizer> checked_tokenizer(const RunConfig& config, int ranks, ConfigUse use) {
  validate(config, ranks, std::nullopt, use);
  std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(config.data().tokenizer());
  validate(config, ranks, tokenizer->vocab_size(), use);
  return tokenizer;
}

std::unique_ptr<Context> start_context(const RunConfig& config, Comm& world, std::vector<Fact> verb_facts) {
  world.set_timeout(config.parallel().timeout_seconds());
  agree_on_run(world, config, std::move(verb_facts));
  std::unique_ptr<Context> ctx = make_context(config, world);
  world.use_gpu(*ctx);
  return ctx;
}

TrainedModel load_trained_model(const RunConfig& config, const std::string& checkpoint, Comm& world,
                                std::vector<Fact> verb_facts) {
  std::optional<Progress> progress;
  if (world.rank() == 0) {
    const std::string lacking = lacking_tokenizer(config);
    if (!lacking.empty()) fmt::print(stderr, "{}\n", lacking);
  }
  if (world.rank() == 0) progress.emplace(progress_on_stderr("loading the model"));
  TrainedModel trained;
  trained.tokenizer = checked_tokenizer(config, world.size(), ConfigUse::kInference);
  verb_facts.push_back(option_fact("checkpoint", checkpoint));
  trained.ctx = start_context(config, world, std::move(verb_facts));
  const SharedCheckpoint opened = checkpoint.empty() ? SharedCheckpoint::newest(checkpoint_dir(config), world)
                                                     : SharedCheckpoint(checkpoint, world);
  trained.checkpoint = opened.directory().string();
  trained.mesh = std::make_unique<Mesh>(world, mesh_shape(config, world.size()));
  trained.model = std::make_unique<LanguageModel>(
      language_model_options(config, trained.tokenizer->vocab_size(), *trained.mesh));
  ParamStoreOptions options = param_store_options(config, *trained.model);
  options.gradients = ParamStoreOptions::Gradients::kNo;
  options.zero_stage = 0;
  trained.params = std::make_unique<ParamStore>(*trained.ctx, *trained.model, options,
                                                trained.mesh->data_sequence(), trained.mesh->tensor());
  load_model(opened, config, settings_of(config, *trained.tokenizer, trained.model->options().vocab_size),
             *trained.params, world);
  trained.document_start = document_start_of(opened.manifest());
  return trained;
}

}  // namespace spanwise
