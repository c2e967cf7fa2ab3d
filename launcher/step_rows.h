#pragma once
// The rows of a step, by data rank and micro-batch: those that training loads, and those that a plan is told.

#include <functional>

#include "data/loader.h"
#include "launcher/config/config.h"

namespace spanwise {

struct StepRows {
  int64_t passes = 0;  ///< micro-batches of a data rank
  std::function<Batch(int data, int64_t pass)> micro_batch;
  bool alike = false;  ///< all of all data ranks are: a plan then runs three of them at most
};

/// Documents of `document_tokens` each, one behind the other from each row's first token; the last one of a
/// row ends with it. 0: one document a row. Every label counts.
StepRows rows_of_documents(const RunConfig& config, int64_t vocab_size, int world_size,
                           int64_t document_tokens);

/// The rows of a step of a loader's data, counted from 0. The loader must outlive them.
StepRows rows_of_data(const RunConfig& config, int world_size, const Loader& loader, int64_t step);

}  // namespace spanwise
