#pragma once
// Held-out loss of a model.

#include <optional>

#include "data/loader.h"
#include "launcher/rank_batch.h"
#include "models/language_model.h"
#include "parallel/stop_request.h"

namespace spanwise {

struct HeldOut {
  double loss = 0;  ///< mean over targets, nats
  int64_t num_targets = 0;
};

/// The first `max_sequences` samples (0: all) of a dataset in file order, shared out over the data ranks in
/// micro-batches. Equal on every rank. With `stop`, nothing once a rank was asked to end, on which ranks
/// agree between micro-batches. Errors: data errors, as the loader's.
std::optional<HeldOut> evaluate(const LanguageModel& model, const SequentialLoader& loader, const Mesh& mesh,
                                const SequenceOptions& sequence, Context& ctx, int64_t max_sequences,
                                int64_t micro_batch, StopRequest* stop = nullptr);

}  // namespace spanwise
