#pragma once
// Held-out loss of a model.

#include "data/loader.h"
#include "models/language_model.h"
#include "parallel/comm.h"

namespace spanwise {

struct HeldOut {
  double loss = 0;  ///< mean over targets, nats
  int64_t num_targets = 0;
};

/// The first `max_sequences` samples (0: all) of a dataset in file order, shared out over the ranks in
/// micro-batches. Equal on every rank. Errors: data errors, as the loader's.
HeldOut evaluate(const LanguageModel& model, const SequentialLoader& loader, Comm& world, Context& ctx,
                 int64_t max_sequences, int64_t micro_batch);

/// A loader's batch as the model takes it; the batch must outlive the layout.
SequenceLayout layout_of(const Batch& batch);

}  // namespace spanwise
