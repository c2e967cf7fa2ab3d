#include "launcher/plan.h"

#include <memory>

#include "launcher/build_model.h"
#include "launcher/planned_comm.h"

namespace spanwise {

namespace {

PlannedMemory plan_memory(const ParamLayout& params, DType dtype, int zero_stage) {
  const DType master = accumulation_dtype(dtype);
  const int64_t all = params.numel() * int64_t(size_of(master)),
                slice = params.slice_numel() * int64_t(size_of(master));
  int64_t parameters = 0;
  for (const ParamBucket& bucket : params.buckets()) {
    const int64_t kept = zero_stage == 3 ? params.own_slice(bucket).numel() : bucket.range.numel();
    parameters += kept * int64_t(size_of(model_dtype(bucket, dtype)));
  }
  // The model reads copies of the optimizer's masters where these have another dtype.
  const int num_optimizer_values = master == dtype ? 2 : 3;
  return {.parameters = parameters,
          .gradients = zero_stage >= 2 ? slice : all,
          .optimizer = num_optimizer_values * (zero_stage == 0 ? all : slice)};
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
  plan.memory = plan_memory(params, options.dtype, stage);
  plan.activation_bytes = plan_activations(config, mesh, model);
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
