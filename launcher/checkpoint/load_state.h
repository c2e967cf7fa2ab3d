#pragma once
// Reads what checkpoint_saver.h writes, into any layout.

#include <filesystem>
#include <string>

#include "data/loader.h"
#include "launcher/checkpoint/shared_checkpoint.h"
#include "launcher/checkpoint/training_state.h"
#include "launcher/config/config.h"
#include "parallel/sharded_adamw.h"

namespace spanwise {

/// The checkpoint directory to go on from as checkpoint.resume says; empty to start afresh. UserError if
/// REQUIRED finds none or NEVER finds one.
std::string checkpoint_to_resume(const RunConfig& config);

/// Fills what this rank holds of parameters and moments, and the state; the layout may be another than the
/// one that saved it, and BF16 may follow F32 or the other way round. Rank 0 reads and verifies every file,
/// in one pass. UserError if a file is damaged or holds a number that is not finite, or if the model, its
/// settings (settings.h), the precision, the data or the global batch are not the config's. `state.settings`
/// are settings_of the config; the rest is filled. Rank 0 says changes that are accepted, and another
/// schedule. Collective.
void load_checkpoint(const std::filesystem::path& directory, const RunConfig& config, const Loader& loader,
                     const ParamStore& params, const ShardedAdamW& optimizer, TrainingState& state,
                     Comm& world);

/// Parameters only, for evaluation, generation and new runs: verifies and reads nothing else. `settings` are
/// settings_of the config. UserError as above, but for what belongs to a run. Collective.
void load_model(const SharedCheckpoint& checkpoint, const RunConfig& config,
                const std::vector<Setting>& settings, const ParamStore& params, Comm& world);

/// Those of checkpoint.init_from, a checkpoint or a run directory, whose newest rank 0 chooses. Returns the
/// checkpoint's directory. Collective.
std::string load_initial_weights(const RunConfig& config, const std::vector<Setting>& settings,
                                 const ParamStore& params, Comm& world);

}  // namespace spanwise
