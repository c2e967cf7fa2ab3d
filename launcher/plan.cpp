#include "launcher/plan.h"

#include <algorithm>
#include <memory>

#include "launcher/checkpoint/checkpoint_saver.h"
#include "launcher/checkpoint/shard_plan.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"
#include "launcher/planned_comm.h"

namespace spanwise {

namespace {

/// What the model reads of two parts that follow each other, at most: in stage 3 one is used while the next
/// one comes. Embeddings that serve as the head follow the last part, too.
int64_t largest_neighbours(const ParamLayout& params, DType dtype, bool tied_embeddings) {
  std::vector<int64_t> parts;
  for (const ParamBucket& bucket : params.buckets()) {
    parts.resize(std::max(parts.size(), size_t(bucket.part) + 1));
    parts[bucket.part] += bucket.range.numel() * int64_t(size_of(model_dtype(bucket, dtype)));
  }
  if (tied_embeddings) parts.push_back(parts.front());
  int64_t largest = 0;
  for (size_t i = 0; i + 1 < parts.size(); ++i) largest = std::max(largest, parts[i] + parts[i + 1]);
  return largest;
}

PlannedMemory plan_memory(const ParamLayout& params, DType dtype, int zero_stage,
                          const GradientSizes& gradients, const PlannedActivations& activations,
                          int64_t passes, bool tied_embeddings) {
  const DType master = accumulation_dtype(dtype);
  const int64_t updated = zero_stage == 0 ? params.numel() : params.slice_numel();
  int64_t parameters = 0;
  for (const ParamBucket& bucket : params.buckets()) {
    const int64_t kept = zero_stage == 3 ? params.own_slice(bucket).numel() : bucket.range.numel();
    parameters += kept * int64_t(size_of(model_dtype(bucket, dtype)));
  }
  // The model reads copies of the optimizer's masters where these have another dtype.
  const int num_optimizer_values = master == dtype ? 2 : 3;
  const int64_t optimizer = num_optimizer_values * updated * int64_t(size_of(master));
  const int64_t pass = passes > 1 ? activations.bytes + gradients.whole() : activations.with_gradients;
  const int64_t gathered = zero_stage == 3 ? largest_neighbours(params, dtype, tied_embeddings) : 0;
  return {.parameters = parameters,
          .optimizer = optimizer,
          .gradients = gradients.at_update(),
          .activations = activations.bytes,
          .peak = parameters + optimizer + std::max(pass + gathered, gradients.at_update())};
}

int64_t checkpoint_copy(const RunConfig& config, const Mesh& mesh, const ParamLayout& params, DType dtype) {
  const int positions = mesh.data_sequence().size(), position = mesh.data_sequence().rank();
  const int writers = num_checkpoint_writers(config, positions, false);
  if (mesh.tensor().rank() > 0 || position >= writers) return 0;
  const ShardPlan shards(params.entries(), writers, int64_t(size_of(accumulation_dtype(dtype))),
                         SaverOptions{}.block_bytes);
  return shards.num_blocks(position) * shards.block_bytes();
}

void check_known_nodes(const config::ParallelConfig& parallel) {
  if (parallel.exchange() == config::StateExchange::TWO_LEVEL && parallel.sequence() > 1 &&
      parallel.ranks_per_node() == 0) {
    fail_user(
        "parallel.ranks_per_node is 0, the ranks of the machine a run is on, which a plan cannot know; set "
        "parallel.ranks_per_node.");
  }
}

}  // namespace

int64_t RankPlan::received_bytes() const {
  int64_t total = 0;
  for (const PlannedTraffic& t : traffic) total += t.received_bytes;
  return total;
}

RunConfig config_to_plan(RunConfig config) {
  const bool for_gpus = config.train().precision() == config::TrainConfig::BF16;
  if (config.device() == RunConfig::AUTO && for_gpus) config.set_device(RunConfig::CUDA);
  return config;
}

RankPlan plan_rank(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank) {
  check_known_nodes(config.parallel());
  const MeshShape shape = mesh_shape(config, world_size);
  const std::unique_ptr<Comm> world = make_planned_world(shape, rank);
  const Mesh mesh(*world, shape);
  LanguageModel model(language_model_options(config, tokenizer_vocab_size, mesh));
  const ParamStoreOptions options = param_store_options(config, model);
  const int stage = effective_zero_stage(options, mesh.data_sequence());
  const ParamLayout params(model, param_layout_options(options, mesh.data_sequence(), mesh.tensor()));

  RankPlan plan{.rank = rank};
  for (const ParamEntry& entry : params.entries()) plan.num_parameters += entry.param->global_shape().numel();
  const GradientSizes gradients(params, model, options.dtype, stage);
  plan.memory = plan_memory(params, options.dtype, stage, gradients,
                            plan_activations(config, mesh, model, params, gradients),
                            accumulation_passes(config, world_size), model.options().tie_embeddings);
  plan.memory.checkpoint_copy = checkpoint_copy(config, mesh, params, options.dtype);
  plan.traffic = plan_traffic(config, mesh, model, params, stage);
  return plan;
}

std::vector<RankPlan> plan_ranks(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size) {
  const MeshShape shape = mesh_shape(config, world_size);
  std::vector<RankPlan> plans;
  for (int rank = 0; rank < shape.sequence * shape.tensor; ++rank)
    plans.push_back(plan_rank(config, tokenizer_vocab_size, world_size, rank));
  return plans;
}

}  // namespace spanwise
