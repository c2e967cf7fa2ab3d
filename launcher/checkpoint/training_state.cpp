#include "launcher/checkpoint/training_state.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <optional>

#include "core/host_context.h"
#include "launcher/build_info.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/config_derived.h"
#include "models/hf/safetensors.h"
#include "parallel/whole_params.h"

namespace spanwise {

namespace {

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";

// Whole tensors go between ranks and files in pieces of at most this many bytes.
constexpr int64_t kPieceBytes = 16 << 20;

// Parameters, or one of their moments: tensors NAME + suffix.
struct NamedBuffer {
  const char* suffix;
  Tensor flat;
};

std::vector<NamedBuffer> model_buffers(const ParamStore& params) {
  return {{"", params.values()}};
}

std::vector<NamedBuffer> optimizer_buffers(const ShardedAdamW& optimizer) {
  return {{".exp_avg", optimizer.first_moment()}, {".exp_avg_sq", optimizer.second_moment()}};
}

// Calls fn(tensor name, buffer, index of the parameter) in the same order on every rank.
template <class F>
void for_each_tensor(const ParamStore& params, const std::vector<NamedBuffer>& buffers, F&& fn) {
  for (const NamedBuffer& buffer : buffers) {
    for (size_t e = 0; e < params.entries().size(); ++e) {
      fn(params.entries()[e].name + buffer.suffix, buffer.flat, int(e));
    }
  }
}

// Calls fn(piece) for all of a whole parameter.
template <class F>
void for_each_piece(const ParamStore& params, int entry, F&& fn) {
  const int64_t numel = params.entries()[entry].param->global_shape().numel();
  const int64_t most = kPieceBytes / int64_t(size_of(params.master_dtype()));
  for (int64_t begin = 0; begin < numel; begin += most) fn(FlatRange{begin, std::min(begin + most, numel)});
}

// What rank 0 alone does while all ranks take part in collectives: after its first error it does nothing
// more, and the error is thrown when the others no longer wait for it.
class OnRankZero {
 public:
  explicit OnRankZero(bool here) : here_(here) {}
  template <class F>
  void operator()(F&& fn) {
    if (!here_ || error_) return;
    try {
      fn();
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  bool here_;
  std::exception_ptr error_;
};

void write_file(OnRankZero& on_rank_zero, const std::function<std::filesystem::path()>& path,
                const ParamStore& params, const std::vector<NamedBuffer>& buffers) {
  std::optional<SafetensorsWriter> writer;
  on_rank_zero([&] {
    std::vector<SafetensorsInfo> infos;
    for_each_tensor(params, buffers, [&](const std::string& name, const Tensor& flat, int entry) {
      infos.push_back({.name = name,
                       .dtype = name_of(flat.dtype()),
                       .shape = params.entries()[entry].param->global_shape().to_vector()});
    });
    writer.emplace(path(), std::move(infos), SafetensorsMetadata{{"format", "pt"}});
  });
  for_each_tensor(params, buffers, [&](const std::string& name, const Tensor& flat, int entry) {
    for_each_piece(params, entry, [&](FlatRange piece) {
      const Tensor values = gather_piece(params, flat, entry, piece);
      on_rank_zero([&] { writer->append(name, values.raw(), values.bytes()); });
    });
  });
  on_rank_zero([&] { writer->finish(); });
}

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

void read_file(const std::filesystem::path& file, const ParamStore& params,
               const std::vector<NamedBuffer>& buffers) {
  const SafetensorsReader reader(file);
  check_tensors(file, reader, params, buffers);
  for_each_tensor(params, buffers, [&](const std::string& name, const Tensor& flat, int entry) {
    for_each_piece(params, entry, [&](FlatRange piece) {
      if (!holds_piece(params, flat, entry, piece)) return;
      const Tensor values = Tensor::empty(host_context(params.context()), {piece.numel()}, flat.dtype());
      reader.read_part(name, uint64_t(piece.begin) * size_of(flat.dtype()), values.raw(), values.bytes());
      scatter_piece(params, flat, entry, piece, values);
    });
  });
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
  return 3 * uint64_t(params.num_parameters()) * size_of(params.master_dtype()) + (uint64_t{1} << 20);
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

void check_checkpoint_dir(const RunConfig& config, const ParamStore& params, const TrainingState& state) {
  CheckpointWriter(checkpoint_dir(config), state.step, needed_bytes(params));
}

std::string save_checkpoint(const RunConfig& config, const Loader& loader, const ParamStore& params,
                            const ShardedAdamW& optimizer, const TrainingState& state) {
  const std::string root = checkpoint_dir(config);
  OnRankZero on_rank_zero(params.data_sequence().rank() == 0 && params.tensor().rank() == 0);
  std::optional<CheckpointWriter> writer;
  on_rank_zero([&] { writer.emplace(root, state.step, needed_bytes(params)); });
  write_file(
      on_rank_zero, [&] { return writer->path(kModelFile); }, params, model_buffers(params));
  write_file(
      on_rank_zero, [&] { return writer->path(kOptimizerFile); }, params, optimizer_buffers(optimizer));
  std::filesystem::path written;
  on_rank_zero([&] {
    written = writer->commit(manifest_of(config, loader.cursor(state.step), params, state));
    prune_checkpoints(root, size_t(config.checkpoint().keep_last()), written);
  });
  on_rank_zero.rethrow();
  return written.string();
}

void load_checkpoint(const std::filesystem::path& directory, const RunConfig& config, const Loader& loader,
                     const ParamStore& params, const ShardedAdamW& optimizer, TrainingState& state) {
  const Manifest manifest = verify_checkpoint(directory);
  // F32 and BF16 go on from each other's checkpoints: both hold F32.
  const std::string precision = config::TrainConfig::Precision_Name(config.train().precision());
  if ((manifest.precision() == "F64") != (precision == "F64")) {
    fail_user("{} was trained in {} but train.precision is {}; set it to {} or choose another run.dir.",
              directory.string(), manifest.precision(), precision, manifest.precision());
  }
  state.step = step_to_resume(directory, manifest, config, loader);
  state.tokens_seen = manifest.tokens_seen();
  read_file(directory / kModelFile, params, model_buffers(params));
  read_file(directory / kOptimizerFile, params, optimizer_buffers(optimizer));
  params.publish_values();
}

void load_model(const std::filesystem::path& directory, const ParamStore& params) {
  verify_checkpoint(directory);
  read_file(directory / kModelFile, params, model_buffers(params));
  params.publish_values();
}

}  // namespace spanwise
