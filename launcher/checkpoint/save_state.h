#pragma once
// Writes what a run needs to go on to a checkpoint directory:
//   model.safetensors      every parameter under its global name, whole
//   optimizer.safetensors  NAME.exp_avg and NAME.exp_avg_sq for every parameter
// No layout is in the names.

#include <string>

#include "launcher/checkpoint/manifest.pb.h"
#include "launcher/config.h"
#include "parallel/sharded_adamw.h"

namespace spanwise {

/// UserError if checkpoint_dir cannot take a checkpoint: not writable, or too little free space. Leaves
/// nothing but the directory.
void check_checkpoint_dir(const RunConfig& config, const ParamStore& params);

/// Writes checkpoint_dir/step_…; keeps checkpoint.keep_last. Collective: rank 0 gets the others'
/// parts piece by piece, writes the files and returns the directory; the others return "". An error of rank 0
/// is thrown there once all ranks are done; what was there stays.
std::string save_checkpoint(const RunConfig& config, Manifest manifest, int64_t step,
                            const ParamStore& params, const ShardedAdamW& optimizer);

}  // namespace spanwise
