#pragma once
// What a manifest says of the run: data cursor, schedule, program. Directory and files are
// checkpoint_dir.h's.

#include "data/loader.h"
#include "launcher/checkpoint/manifest.pb.h"
#include "launcher/checkpoint/training_state.h"
#include "launcher/config.h"
#include "parallel/param_store.h"

namespace spanwise {

/// All but what the writer of the directory fills in (checkpoint_dir.h).
Manifest manifest_of(const RunConfig& config, const DataCursor& cursor, const ParamStore& params,
                     const TrainingState& state);

/// UserError if the manifest of `directory` tells of another Tokenizer::checksum.
void check_tokenizer(const Manifest& manifest, uint32_t checksum, const std::filesystem::path& directory);

/// Where documents begin in the run of a manifest.
DocumentStart document_start_of(const Manifest& manifest);

/// Where in its data the run of a manifest stopped.
DataCursor cursor_of(const Manifest& manifest);

}  // namespace spanwise
