#include "launcher/evaluate.h"

#include <algorithm>

namespace spanwise {

SequenceLayout layout_of(const Batch& batch) {
  return SequenceLayout(batch.num_sequences, batch.sequence_length, batch.document_starts);
}

HeldOut evaluate(const LanguageModel& model, const SequentialLoader& loader, Comm& world, Context& ctx,
                 int64_t max_sequences, int64_t micro_batch) {
  int64_t samples = loader.num_samples();
  if (max_sequences > 0) samples = std::min(samples, max_sequences);
  double loss = 0, targets = 0;
  // Micro-batch b is rank b mod ranks' work; which samples share a micro-batch does not depend on the rank
  // count.
  for (int64_t first = world.rank() * micro_batch; first < samples; first += world.size() * micro_batch) {
    const Batch batch = loader.load(first, std::min(micro_batch, samples - first));
    const SequenceLayout layout = layout_of(batch);
    Tape tape(ctx, Tape::Mode::kInference);
    const Tensor sum = model.loss(tape, {batch.tokens, batch.labels, layout}, 1.0).value();
    dispatch_float(sum.dtype(), [&](auto zero) { loss += double(sum.data<decltype(zero)>()[0]); });
    targets += double(batch.num_targets());
  }
  std::vector<double> sums{loss, targets};
  world.all_reduce("held_out", sums);
  if (sums[1] == 0) fail_user("{} has no target tokens to evaluate on.", loader.dataset().prefix());
  return {sums[0] / sums[1], int64_t(sums[1])};
}

}  // namespace spanwise
