#pragma once
// What training needs to go on where it stopped, and its two files:
//   model.safetensors      every parameter under its global name, whole
//   optimizer.safetensors  NAME.exp_avg and NAME.exp_avg_sq for every parameter
// No layout is in the names. Random numbers and the schedule are pure functions of the seed and the step, so
// the step, the data cursor and these tensors are all there is: N + N steps equal 2N steps byte for byte.

#include <filesystem>
#include <string>

#include "data/loader.h"
#include "launcher/config.h"
#include "parallel/sharded_adamw.h"

namespace spanwise {

struct TrainingState {
  int64_t step = 0;         ///< optimizer steps done
  int64_t tokens_seen = 0;  ///< over all ranks
};

/// The checkpoint directory to go on from as checkpoint.resume says; empty to start afresh. UserError if
/// REQUIRED finds none or NEVER finds one.
std::string checkpoint_to_resume(const RunConfig& config);

/// UserError if checkpoint_dir cannot take a checkpoint: not writable, or too little free space. Leaves
/// nothing but the directory.
void check_checkpoint_dir(const RunConfig& config, const ParamStore& params, const TrainingState& state);

/// Writes checkpoint_dir/step_…; keeps checkpoint.keep_last. Collective: rank 0 gets the others'
/// parts piece by piece, writes the files and returns the directory; the others return "". An error of rank 0
/// is thrown there once all ranks are done; what was there stays.
std::string save_checkpoint(const RunConfig& config, const Loader& loader, const ParamStore& params,
                            const ShardedAdamW& optimizer, const TrainingState& state);

/// Verifies every file, then fills what this rank holds of parameters and moments, and the state; the layout
/// may be another than the one that saved it, and BF16 may follow F32 or the other way round. UserError if a
/// file is damaged, or if the model, the precision, the data or the global batch are not the config's.
void load_checkpoint(const std::filesystem::path& directory, const RunConfig& config, const Loader& loader,
                     const ParamStore& params, const ShardedAdamW& optimizer, TrainingState& state);

/// Parameters only, for evaluation and generation.
void load_model(const std::filesystem::path& directory, const ParamStore& params);

}  // namespace spanwise
