#pragma once
// run.dir/config.textproto: what `train RUN_DIR`, `eval RUN_DIR` and `generate RUN_DIR` read.
//
// The start that begins a run writes it, from its config and its --set options. A later start leaves it: what
// it sets otherwise holds for that start alone, is said, and is kept in run.dir/starts/. --save-config makes
// a start's settings the run's.

#include <cstdint>
#include <string>

#include "launcher/config/config.h"

namespace spanwise {

enum class SaveConfig { kFirstStart, kThisStart };

/// Records the config of a start that goes on from `step`, and its tokenizer. A file that is replaced stays
/// beside the new one under another name: by --save-config, or by a start at step 0 where the run as it was
/// recorded has no checkpoint. Returns what there is to say of it, a line; empty if nothing. UserError naming
/// what cannot be written.
std::string record_run_config(const RunConfig& config, int64_t step, SaveConfig save);

}  // namespace spanwise
