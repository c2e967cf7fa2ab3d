#include "launcher/checkpoint/save_state.h"

#include <exception>
#include <filesystem>
#include <optional>

#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/state_files.h"
#include "launcher/config_derived.h"
#include "models/hf/safetensors.h"
#include "parallel/whole_params.h"

namespace spanwise {

namespace {

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

void write_file(OnRankZero& on_rank_zero, std::optional<CheckpointWriter>& checkpoint, const char* file,
                const ParamStore& params, const std::vector<NamedBuffer>& buffers) {
  std::optional<SafetensorsWriter> writer;
  on_rank_zero([&] {
    std::vector<SafetensorsInfo> infos;
    for_each_tensor(params, buffers, [&](const std::string& name, const Tensor& flat, int entry) {
      infos.push_back({.name = name,
                       .dtype = name_of(flat.dtype()),
                       .shape = params.entries()[entry].param->global_shape().to_vector()});
    });
    writer.emplace(checkpoint->path(file), std::move(infos), SafetensorsMetadata{{"format", "pt"}});
  });
  for_each_tensor(params, buffers, [&](const std::string& name, const Tensor& flat, int entry) {
    for_each_piece(params, entry, [&](FlatRange piece) {
      const Tensor values = gather_piece(params, flat, entry, piece);
      on_rank_zero([&] { writer->append(name, values.raw(), values.bytes()); });
    });
  });
  on_rank_zero([&] { checkpoint->add(file, writer->finish()); });
}

// Weights, two moments, headers.
uint64_t needed_bytes(const ParamStore& params) {
  return 3 * uint64_t(params.num_parameters()) * size_of(params.master_dtype()) + (uint64_t{1} << 20);
}

}  // namespace

void check_checkpoint_dir(const RunConfig& config, const ParamStore& params) {
  CheckpointWriter(checkpoint_dir(config), 0, needed_bytes(params));
}

std::string save_checkpoint(const RunConfig& config, Manifest manifest, int64_t step,
                            const ParamStore& params, const ShardedAdamW& optimizer) {
  const std::string root = checkpoint_dir(config);
  OnRankZero on_rank_zero(params.data_sequence().rank() == 0 && params.tensor().rank() == 0);
  std::optional<CheckpointWriter> writer;
  on_rank_zero([&] { writer.emplace(root, step, needed_bytes(params)); });
  write_file(on_rank_zero, writer, kModelFile, params, model_buffers(params));
  write_file(on_rank_zero, writer, kOptimizerFile, params, optimizer_buffers(optimizer));
  std::filesystem::path written;
  on_rank_zero([&] {
    written = writer->commit(std::move(manifest));
    prune_checkpoints(root, size_t(config.checkpoint().keep_last()), written);
  });
  on_rank_zero.rethrow();
  return written.string();
}

}  // namespace spanwise
