#pragma once
// What training needs to go on where it stopped, besides parameters and moments. Random numbers and the
// schedule are pure functions of the seed and the step, so the step, the data cursor and the tensors are all
// there is: N + N steps equal 2N steps byte for byte.
//   checkpoint_saver.h  writes it, load_state.h reads it; shard_plan.h: which tensors are in which file

#include <cstdint>

#include "data/document_start.h"

namespace spanwise {

struct TrainingState {
  int64_t step = 0;         ///< optimizer steps done
  int64_t tokens_seen = 0;  ///< over all ranks
  uint32_t tokenizer_crc32c = 0;  ///< Tokenizer::checksum of the one that this process trains with
  /// Of the run since its first step.
  DocumentStart document_start = DocumentStart::kFirstToken;
};

}  // namespace spanwise
