#include "launcher/checkpoint/load_state.h"

#include "core/host_context.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/run_manifest.h"
#include "launcher/checkpoint/state_files.h"
#include "launcher/config_derived.h"
#include "models/hf/safetensors.h"
#include "parallel/finite_values.h"
#include "parallel/whole_params.h"

namespace spanwise {

namespace {

void check_tensors(const std::filesystem::path& file, const SafetensorsReader& reader,
                   const ParamStore& params, const std::vector<NamedBuffer>& buffers) {
  for_each_tensor(params, buffers, [&](const std::string& name, const Tensor& flat, int entry) {
    if (!reader.contains(name)) {
      fail_user(
          "{} has no tensor {}: it belongs to another model; check the model section of the config or choose "
          "another run.dir.",
          file.string(), name);
    }
    const SafetensorsInfo& info = reader.info(name);
    const std::vector<int64_t> shape = params.entries()[entry].param->global_shape().to_vector();
    if (info.shape != shape || info.dtype != name_of(flat.dtype())) {
      fail_user(
          "{}: tensor {} is {} [{}] but the config asks for {} [{}]; check model and train.precision or "
          "choose another run.dir.",
          file.string(), name, info.dtype, fmt::join(info.shape, ", "), name_of(flat.dtype()),
          fmt::join(shape, ", "));
    }
  });
  const size_t expected = params.entries().size() * buffers.size();
  if (reader.tensors().size() != expected) {
    fail_user("{} holds {} tensors but the config's model has {}; check the model section of the config.",
              file.string(), reader.tensors().size(), expected);
  }
}

void read_file(const OpenCheckpoint& checkpoint, const std::string& name, const ParamStore& params,
               const std::vector<NamedBuffer>& buffers) {
  const SafetensorsReader reader(checkpoint.file(name));
  check_tensors(checkpoint.directory() / name, reader, params, buffers);
  for_each_tensor(params, buffers, [&](const std::string& name, const Tensor& flat, int entry) {
    for_each_piece(params, entry, [&](FlatRange piece) {
      if (!holds_piece(params, flat, entry, piece)) return;
      const Tensor values = Tensor::empty(host_context(params.context()), {piece.numel()}, flat.dtype());
      reader.read_part(name, uint64_t(piece.begin) * size_of(flat.dtype()), values.raw(), values.bytes());
      scatter_piece(params, flat, entry, piece, values);
    });
  });
}

// What a diverged run left is not gone on from.
void require_finite(const OpenCheckpoint& checkpoint, const char* file, const ParamStore& params,
                    const std::vector<NamedBuffer>& buffers) {
  for (const NamedBuffer& buffer : buffers) {
    const std::string name = first_not_finite(params, buffer.flat);
    if (name.empty()) continue;
    fail_user(
        "{} holds numbers that are not finite, first in {}{}: its training diverged; use a checkpoint from "
        "before that, or train again",
        (checkpoint.directory() / file).string(), name, buffer.suffix);
  }
}

void load_tensors(const OpenCheckpoint& checkpoint, const char* file, const ParamStore& params,
                  const std::vector<NamedBuffer>& buffers) {
  read_file(checkpoint, file, params, buffers);
  require_finite(checkpoint, file, params, buffers);
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
                     const ParamStore& params, const ShardedAdamW& optimizer, TrainingState& state) {
  const OpenCheckpoint checkpoint(directory);
  checkpoint.verify();
  const Manifest& manifest = checkpoint.manifest();
  // F32 and BF16 go on from each other's checkpoints: both hold F32.
  const std::string precision = config::TrainConfig::Precision_Name(config.train().precision());
  if ((manifest.precision() == "F64") != (precision == "F64")) {
    fail_user("{} was trained in {} but train.precision is {}; set it to {} or choose another run.dir.",
              directory.string(), manifest.precision(), precision, manifest.precision());
  }
  state.step = step_to_resume(directory, manifest, config, loader);
  state.tokens_seen = manifest.tokens_seen();
  state.document_start = document_start_of(manifest);
  load_tensors(checkpoint, kModelFile, params, model_buffers(params));
  load_tensors(checkpoint, kOptimizerFile, params, optimizer_buffers(optimizer));
  params.publish_values();
}

void load_model(const OpenCheckpoint& checkpoint, const ParamStore& params) {
  checkpoint.verify({kModelFile});
  load_tensors(checkpoint, kModelFile, params, model_buffers(params));
  params.publish_values();
}

}  // namespace spanwise
