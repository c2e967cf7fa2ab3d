#include "launcher/checkpoint/load_state.h"

#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/read_state.h"
#include "launcher/checkpoint/run_manifest.h"
#include "launcher/checkpoint/shard_plan.h"
#include "launcher/config/derived.h"
#include "launcher/run_dir.h"
#include "parallel/finite_values.h"

namespace spanwise {

namespace {

// What a diverged run left is not gone on from.
void require_finite(const SharedCheckpoint& checkpoint, std::string_view stem, const ParamStore& params,
                    const std::vector<NamedBuffer>& buffers) {
  for (const NamedBuffer& buffer : buffers) {
    const std::string name = first_not_finite(params, buffer.flat);
    if (name.empty()) continue;
    fail_user(
        "{}: {} holds numbers that are not finite, first in {}{}: its training diverged; use a checkpoint "
        "from "
        "before that, or train again",
        checkpoint.directory().string(), whole_file_name(stem), name, buffer.suffix);
  }
}

void load_tensors(const SharedCheckpoint& checkpoint, std::string_view stem, const ParamHolders& holders,
                  Comm& world, const std::vector<NamedBuffer>& buffers) {
  read_tensors(checkpoint, stem, holders, world, buffers);
  require_finite(checkpoint, stem, holders.params(), buffers);
}

// On rank 0's standard error.
void say(const ParamStore& params, const std::vector<std::string>& lines) {
  if (params.data_sequence().rank() > 0 || params.tensor().rank() > 0) return;
  for (const std::string& line : lines) fmt::print(stderr, "{}\n", line);
}

void check_precision(const std::filesystem::path& directory, const Manifest& manifest,
                     const RunConfig& config) {
  // F32 and BF16 go on from each other's checkpoints: both hold F32.
  const std::string precision = config::TrainConfig::Precision_Name(config.train().precision());
  if ((manifest.precision() == "F64") == (precision == "F64")) return;
  fail_user("{} was trained in {} but train.precision is {}; set it to {} or choose another run.dir.",
            directory.string(), manifest.precision(), precision, manifest.precision());
}

// A line where the config's init_from is not where the run began, which it can no longer change.
std::string other_initial_weights(const std::filesystem::path& began, const std::filesystem::path& named) {
  const std::filesystem::path checkpoint = began.lexically_normal();
  std::filesystem::path place = named.lexically_normal();
  if (place.filename().empty()) place = place.parent_path();  // RUN/
  if (place.empty() || place == checkpoint || place == checkpoint.parent_path().parent_path()) return "";
  return fmt::format("this run began with the weights of {}: checkpoint.init_from {} has no effect on it",
                     began.string(), named.string());
}

// The step to go on with; what does not fit is said of this checkpoint.
int64_t step_to_resume(const std::filesystem::path& directory, const Manifest& manifest,
                       const RunConfig& config, const Loader& loader) {
  // Steps of another size would give the run's history and its checkpoints two meanings of a step.
  if (manifest.samples_seen() != manifest.step() * config.train().global_batch()) {
    fail_user(
        "{} saw {} sequences in {} steps, which is not train.global_batch {} a step; set it as it was or "
        "choose another run.dir.",
        directory.string(), manifest.samples_seen(), manifest.step(), config.train().global_batch());
  }
  try {
    return loader.resume(cursor_of(manifest));
  } catch (const UserError& error) {
    fail_user("{} does not fit this run: {}", directory.string(), error.what());
  }
}

}  // namespace

std::string checkpoint_to_resume(const RunConfig& config) {
  const std::string root = checkpoint_dir(config);
  const auto newest = newest_checkpoint(root);
  switch (config.checkpoint().resume()) {
    case config::CheckpointConfig::NEVER:
      if (newest) {
        fail_user("checkpoint.resume is NEVER but {} exists; choose another run.dir or remove it.",
                  newest->string());
      }
      return "";
    case config::CheckpointConfig::REQUIRED:
      if (!newest) fail_user("checkpoint.resume is REQUIRED but there is no checkpoint in {}.", root);
      break;
    case config::CheckpointConfig::NEWEST:
      break;
  }
  return newest ? newest->string() : "";
}

void load_checkpoint(const std::filesystem::path& directory, const RunConfig& config, const Loader& loader,
                     const ParamStore& params, const ShardedAdamW& optimizer, TrainingState& state,
                     Comm& world) {
  const SharedCheckpoint checkpoint(directory, world);
  const Manifest& manifest = checkpoint.manifest();
  check_precision(directory, manifest, config);
  say(params, compare_settings(directory.string(), manifest, state.settings, config, CheckpointUse::kResume));
  state.step = step_to_resume(directory, manifest, config, loader);
  const std::string schedule = schedule_change(manifest, config);
  if (!schedule.empty()) say(params, {schedule});
  state.init_from = manifest.init_from();
  if (state.init_from.empty() && !config.checkpoint().init_from().empty()) {
    fail_user(
        "checkpoint.init_from is {} but this run began with random weights and goes on from {}; leave it "
        "out, or choose another run.dir.",
        config.checkpoint().init_from(), directory.string());
  }
  const std::string other = other_initial_weights(state.init_from, config.checkpoint().init_from());
  if (!other.empty()) say(params, {other});
  state.tokens_seen = manifest.tokens_seen();
  state.document_start = document_start_of(manifest);
  const ParamHolders holders(params);
  if (world.rank() == 0) require_whole_files(checkpoint, {kModelStem, kOptimizerStem});
  load_tensors(checkpoint, kModelStem, holders, world, model_buffers(params));
  load_tensors(checkpoint, kOptimizerStem, holders, world, optimizer_buffers(optimizer));
  params.publish_values();
}

void load_model(const SharedCheckpoint& checkpoint, const RunConfig& config,
                const std::vector<Setting>& settings, const ParamStore& params, Comm& world) {
  const std::string directory = checkpoint.directory().string();
  say(params,
      compare_settings(directory, checkpoint.manifest(), settings, config, CheckpointUse::kWeightsOnly));
  check_precision(checkpoint.directory(), checkpoint.manifest(), config);
  if (world.rank() == 0) require_whole_files(checkpoint, {kModelStem});
  load_tensors(checkpoint, kModelStem, ParamHolders(params), world, model_buffers(params));
  params.publish_values();
}

std::string load_initial_weights(const RunConfig& config, const std::vector<Setting>& settings,
                                 const ParamStore& params, Comm& world) {
  const std::filesystem::path from = config.checkpoint().init_from();
  // Rank 0's file system decides, which the others need not see.
  std::vector<double> is_one{world.rank() == 0 && is_checkpoint(from) ? 1.0 : 0.0};
  world.all_reduce("init_from", is_one, Reduce::kMax);
  const SharedCheckpoint checkpoint =
      is_one[0] > 0 ? SharedCheckpoint(from, world)
                    : SharedCheckpoint::newest(world.rank() == 0 ? checkpoints_of_run(from) : from, world);
  load_model(checkpoint, config, settings, params, world);
  return checkpoint.directory().string();
}

}  // namespace spanwise
