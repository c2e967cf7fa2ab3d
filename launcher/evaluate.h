#pragma once
// Held-out loss of a model.

#include <functional>
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

struct EvaluateOptions {
  int64_t max_sequences = 0;  ///< the first so many; 0: all
  int64_t micro_batch = 1;
  StopRequest* stop = nullptr;  ///< asked between micro-batches, in which ranks agree
  /// Told how many sequences all ranks together have begun, on every rank.
  std::function<void(int64_t)> progress = {};
};

/// How many sequences an evaluation of at most `max_sequences` (0: all) goes over.
int64_t num_evaluated(const SequentialLoader& loader, int64_t max_sequences);

/// Samples of a dataset in file order, shared out over the data ranks in micro-batches. Equal on every rank.
/// Nothing once a rank was asked to end through `stop`. Errors: data errors, as the loader's.
std::optional<HeldOut> evaluate(const LanguageModel& model, const SequentialLoader& loader, const Mesh& mesh,
                                const SequenceOptions& sequence, Context& ctx,
                                const EvaluateOptions& options);

}  // namespace spanwise
