#pragma once
// What training needs to go on where it stopped, besides parameters and moments. Random numbers and the
// schedule are pure functions of the seed and the step, so the step, the data cursor and the tensors are all
// there is: N + N steps equal 2N steps byte for byte.
//   checkpoint_saver.h  writes it, load_state.h reads it; shard_plan.h: which tensors are in which file

#include <cstdint>
#include <string>
#include <vector>

#include "data/document_start.h"
#include "launcher/checkpoint/settings.h"

namespace spanwise {

struct TrainingState {
  int64_t step = 0;         ///< optimizer steps done
  int64_t tokens_seen = 0;  ///< over all ranks
  /// Of the run since its first step.
  DocumentStart document_start = DocumentStart::kFirstToken;
  std::vector<Setting> settings;  ///< of the config, from the start on
  std::string init_from;          ///< the checkpoint whose weights the run began with
};

}  // namespace spanwise
