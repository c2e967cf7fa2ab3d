#pragma once
// What a manifest says of the run: data cursor, schedule, program. Directory and files are
// checkpoint_dir.h's.

#include "data/loader.h"
#include "launcher/checkpoint/manifest.pb.h"
#include "launcher/checkpoint/training_state.h"
#include "launcher/config/config.h"
#include "parallel/param_store.h"

namespace spanwise {

/// All but what the writer of the directory fills in (checkpoint_dir.h).
Manifest manifest_of(const RunConfig& config, const DataCursor& cursor, const ParamStore& params,
                     const TrainingState& state);

/// Where documents begin in the run of a manifest.
DocumentStart document_start_of(const Manifest& manifest);

/// One line with both rates if the config's schedule is not the manifest's; empty if it is.
std::string schedule_change(const Manifest& manifest, const RunConfig& config);

/// Where in its data the run of a manifest stopped.
DataCursor cursor_of(const Manifest& manifest);

}  // namespace spanwise
