#include "launcher/evaluate.h"

#include <algorithm>
#include <numeric>

#include "core/ops/scalars.h"

namespace spanwise {

int64_t num_evaluated(const SequentialLoader& loader, int64_t max_sequences) {
  const int64_t all = loader.num_samples();
  return max_sequences > 0 ? std::min(all, max_sequences) : all;
}

std::optional<HeldOut> evaluate(const LanguageModel& model, const SequentialLoader& loader, const Mesh& mesh,
                                const SequenceOptions& sequence, Context& ctx,
                                const EvaluateOptions& options) {
  const int64_t samples = num_evaluated(loader, options.max_sequences), micro_batch = options.micro_batch;
  std::vector<Tensor> losses;
  double targets = 0;
  // Micro-batch b is data rank b mod ranks' work; which samples share one does not depend on the rank count.
  // A forward may be collective over the data axis too: a rank with none left in the last round takes part
  // with one that does not count.
  for (int64_t round = 0; round < samples; round += mesh.data().size() * micro_batch) {
    if (options.progress) options.progress(round);
    if (options.stop) {
      std::vector<double> votes{options.stop->vote()};
      mesh.world().all_reduce("stop", votes);
      if (options.stop->agree(votes[0])) return std::nullopt;
    }
    const int64_t mine = round + mesh.data().rank() * micro_batch;
    const bool counts = mine < samples;
    const int64_t first = counts ? mine : 0;
    const RankBatch batch(ctx, mesh, sequence, loader.load(first, std::min(micro_batch, samples - first)));
    Tape tape(ctx, Tape::Mode::kInference);
    const Tensor sum = model.loss(tape, batch.tokens(), 1.0).value();
    if (!counts) continue;
    losses.push_back(sum);
    targets += double(batch.num_targets());
  }
  const std::vector<double> values = read_scalars(ctx, losses);
  std::vector<double> sums{std::accumulate(values.begin(), values.end(), 0.0), targets};
  mesh.data_sequence().all_reduce("held_out", sums);
  if (sums[1] == 0) fail_user("{} has no target tokens to evaluate on.", loader.dataset().prefix());
  return HeldOut{sums[0] / sums[1], int64_t(sums[1])};
}

}  // namespace spanwise
