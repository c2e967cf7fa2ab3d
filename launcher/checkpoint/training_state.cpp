#include "launcher/checkpoint/training_state.h"

#include "launcher/build_info.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/config_derived.h"
#include "models/hf/safetensors.h"

namespace spanwise {

namespace {

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kFirstMoment = ".exp_avg";
constexpr const char* kSecondMoment = ".exp_avg_sq";

// The views of one flat buffer's parameters, their names followed by `suffix`.
void append_views(const ParamStore& params, const Tensor& flat, const char* suffix,
                  std::vector<SafetensorsView>& views) {
  for (const ParamEntry& entry : params.entries()) {
    const Tensor slice = params.slice(flat, entry);
    views.push_back(
        {entry.name + suffix, name_of(slice.dtype()), slice.shape().to_vector(), slice.raw(), slice.bytes()});
  }
}

void read_views(const std::filesystem::path& file, const std::vector<SafetensorsView>& views) {
  const SafetensorsReader reader(file);
  for (const SafetensorsView& view : views) {
    if (!reader.contains(view.name)) {
      fail_user(
          "{} has no tensor {}: it belongs to another model; check the model section of the config or choose "
          "another run.dir.",
          file.string(), view.name);
    }
    const SafetensorsInfo& info = reader.info(view.name);
    if (info.shape != view.shape || info.dtype != view.dtype) {
      fail_user(
          "{}: tensor {} is {} [{}] but the config asks for {} [{}]; check model and train.precision or "
          "choose "
          "another run.dir.",
          file.string(), view.name, info.dtype, fmt::join(info.shape, ", "), view.dtype,
          fmt::join(view.shape, ", "));
    }
  }
  if (reader.tensors().size() != views.size()) {
    fail_user("{} holds {} tensors but the config's model has {}; check the model section of the config.",
              file.string(), reader.tensors().size(), views.size());
  }
  for (const SafetensorsView& view : views) reader.read(view.name, const_cast<void*>(view.data), view.bytes);
}

std::vector<SafetensorsView> model_views(const ParamStore& params) {
  std::vector<SafetensorsView> views;
  append_views(params, params.values(), "", views);
  return views;
}

std::vector<SafetensorsView> optimizer_views(const ParamStore& params, const TrainingState& state) {
  std::vector<SafetensorsView> views;
  append_views(params, state.exp_avg, kFirstMoment, views);
  append_views(params, state.exp_avg_sq, kSecondMoment, views);
  return views;
}

Manifest manifest_of(const RunConfig& config, const DataCursor& cursor, const ParamStore& params,
                     const TrainingState& state) {
  Manifest manifest;
  manifest.set_tokens_seen(state.tokens_seen);
  manifest.set_samples_seen(cursor.samples_seen);
  manifest.set_sequence_length(cursor.sequence_length);
  manifest.set_seed(cursor.seed);
  for (const DataCursor::Dataset& dataset : cursor.datasets) {
    Manifest::DataSource* source = manifest.add_data();
    source->set_name(dataset.name);
    source->set_weight(dataset.weight);
    source->set_num_tokens(dataset.num_tokens);
    source->set_fingerprint(dataset.fingerprint);
  }
  Manifest::Schedule* schedule = manifest.mutable_schedule();
  schedule->set_kind(config::OptimizerConfig::Schedule_Name(config.optimizer().schedule()));
  schedule->set_total_steps(schedule_steps(config));
  schedule->set_warmup_steps(config.optimizer().warmup_steps());
  schedule->set_decay_steps(decay_steps(config));
  schedule->set_peak_lr(config.optimizer().learning_rate());
  schedule->set_final_lr(config.optimizer().learning_rate() * config.optimizer().min_learning_rate_ratio());
  manifest.set_git_hash(git_hash());
  manifest.set_num_parameters(params.num_parameters());
  manifest.set_precision(config::TrainConfig::Precision_Name(config.train().precision()));
  return manifest;
}

DataCursor cursor_of(const Manifest& manifest) {
  DataCursor cursor{.samples_seen = manifest.samples_seen(),
                    .sequence_length = manifest.sequence_length(),
                    .seed = manifest.seed()};
  for (const Manifest::DataSource& source : manifest.data()) {
    cursor.datasets.push_back({source.name(), source.weight(), source.num_tokens(), source.fingerprint()});
  }
  return cursor;
}

// Weights, two moments, headers.
uint64_t needed_bytes(const ParamStore& params) {
  return 3 * params.values().bytes() + (uint64_t{1} << 20);
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

TrainingState::TrainingState(Context& ctx, const ParamStore& params)
    : exp_avg(Tensor::zeros(ctx, params.values().shape(), params.values().dtype())),
      exp_avg_sq(Tensor::zeros(ctx, params.values().shape(), params.values().dtype())) {}

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

void check_checkpoint_dir(const RunConfig& config, const ParamStore& params, const TrainingState& state) {
  CheckpointWriter(checkpoint_dir(config), state.step, needed_bytes(params));
}

std::string save_checkpoint(const RunConfig& config, const Loader& loader, const ParamStore& params,
                            const TrainingState& state) {
  const std::string root = checkpoint_dir(config);
  CheckpointWriter writer(root, state.step, needed_bytes(params));
  const SafetensorsMetadata metadata{{"format", "pt"}};
  write_safetensors(writer.path(kModelFile), model_views(params), metadata);
  write_safetensors(writer.path(kOptimizerFile), optimizer_views(params, state), metadata);
  const std::filesystem::path written =
      writer.commit(manifest_of(config, loader.cursor(state.step), params, state));
  prune_checkpoints(root, size_t(config.checkpoint().keep_last()), written);
  return written.string();
}

void load_checkpoint(const std::filesystem::path& directory, const RunConfig& config, const Loader& loader,
                     const ParamStore& params, TrainingState& state) {
  const Manifest manifest = verify_checkpoint(directory);
  const std::string precision = config::TrainConfig::Precision_Name(config.train().precision());
  if (manifest.precision() != precision) {
    fail_user("{} was trained in {} but train.precision is {}; set it to {} or choose another run.dir.",
              directory.string(), manifest.precision(), precision, manifest.precision());
  }
  state.step = step_to_resume(directory, manifest, config, loader);
  state.tokens_seen = manifest.tokens_seen();
  read_views(directory / kModelFile, model_views(params));
  read_views(directory / kOptimizerFile, optimizer_views(params, state));
}

void load_model(const std::filesystem::path& directory, const ParamStore& params) {
  verify_checkpoint(directory);
  read_views(directory / kModelFile, model_views(params));
}

}  // namespace spanwise
