#include "launcher/plan.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "launcher/checkpoint/checkpoint_saver.h"
#include "launcher/checkpoint/shard_plan.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"
#include "launcher/runtime.h"
#include "launcher/train_step.h"
#include "parallel/comm_dry.h"

namespace spanwise {

namespace {

/// The mesh's, where a plan can know what runs on it.
MeshShape known_shape(const RunConfig& config, int world_size) {
  const config::ParallelConfig& parallel = config.parallel();
  if (parallel.exchange() == config::StateExchange::TWO_LEVEL && parallel.sequence() > 1 &&
      parallel.ranks_per_node() == 0) {
    fail_user(
        "parallel.ranks_per_node is 0, the ranks of the machine a run is on, which a plan cannot know; set "
        "parallel.ranks_per_node.");
  }
  return mesh_shape(config, world_size);
}

using TrafficTable = std::map<std::pair<std::string, std::string>, Traffic>;

/// What a step took.
struct StepCosts {
  TrafficTable traffic;
  Work work;
};

/// this + times * (this - less): of steps that differ by a micro-batch, one with `times` more of them.
StepCosts extrapolated(const StepCosts& more, const StepCosts& less, int64_t times) {
  StepCosts result = more;
  for (auto& [key, traffic] : result.traffic) {
    const auto before = less.traffic.find(key);
    const Traffic first = before == less.traffic.end() ? Traffic{} : before->second;
    traffic.calls += times * (traffic.calls - first.calls);
    traffic.received_bytes += times * (traffic.received_bytes - first.received_bytes);
  }
  const double n = double(times);
  result.work.flops += n * (more.work.flops - less.work.flops);
  result.work.recomputed_flops += n * (more.work.recomputed_flops - less.work.recomputed_flops);
  result.work.bytes += n * (more.work.bytes - less.work.bytes);
  return result;
}

/// A run of one rank that nobody started.
class DryRun {
 public:
  DryRun(const RunConfig& config, int64_t vocab_size, int world_size, int rank)
      : shape_(known_shape(config, world_size)),
        ctx_({.device = compute_device(config), .num_threads = planned_threads(config), .dry = true}),
        world_(make_dry_world(
            shape_,
            {.rank = rank, .ranks_per_machine = int(config.parallel().ranks_per_node() * shape_.tensor)})),
        mesh_(*world_, shape_),
        step_(config, vocab_size, mesh_, ctx_),
        held_(live()) {}

  const Mesh& mesh() const { return mesh_; }
  const TrainStep& step() const { return step_; }
  int64_t live() const { return int64_t(ctx_.memory().live_bytes); }
  int64_t peak() const { return int64_t(ctx_.memory().peak_bytes); }
  int64_t rounded(size_t bytes) const { return int64_t(allocation_bytes(ctx_.device(), bytes)); }

  /// This rank's parts of a step's micro-batches.
  std::vector<RankBatch> parts_of(std::vector<Batch> rows) const {
    std::vector<RankBatch> parts;
    for (Batch& batch : rows) parts.push_back(step_.part_of(std::move(batch)));
    return parts;
  }

  /// Trains one step. Gradients at the update go to `gradients` where it is not null.
  StepCosts train(const std::vector<RankBatch>& batches, int64_t* gradients = nullptr) {
    for (Comm* comm : mesh_.comms()) comm->reset_traffic();
    ctx_.reset_work();
    ctx_.reset_peak();
    ++number_;
    StepVotes votes;
    step_.compute_gradients(batches, step_.count_targets(batches, votes).value());
    const int64_t before = live();
    step_.update(number_);
    // What an update leaves is the norm, one F64 number.
    if (gradients) *gradients = before - live() + rounded(sizeof(double));
    step_.finish(votes);
    return {traffic(), ctx_.work()};
  }

  /// Most that a micro-batch holds beside what is held anyway and all gradients, which are there.
  int64_t activations(const RankBatch& batch) {
    step_.accumulate(batch, 1.0);
    const int64_t before = live();
    ctx_.reset_peak();
    step_.accumulate(batch, 1.0);
    const int64_t most = peak() - before;
    step_.params().drop_grads();
    return most;
  }

  void fill_held(PlannedMemory& memory) const {
    const ParamStore& params = step_.params();
    if (params.dtype() == params.master_dtype()) {
      memory.parameters = rounded(params.values().bytes());
    } else {
      for (size_t b = 0; b < params.buckets().size(); ++b)
        memory.parameters += rounded(params.model_values(int(b)).bytes());
    }
    memory.optimizer = held_ - memory.parameters;
  }

 private:
  /// Ranks that share a machine share its cores; a plan does not know the machines.
  static int planned_threads(const RunConfig& config) {
    return config.train().threads() > 0 ? int(config.train().threads()) : available_cores();
  }
  TrafficTable traffic() const {
    TrafficTable table;
    for (const Comm* comm : mesh_.comms()) {
      if (comm->size() == 1) continue;
      for (const auto& [name, traffic] : comm->traffic()) table[{comm->axis(), name}] = traffic;
    }
    return table;
  }

  MeshShape shape_;
  Context ctx_;
  std::unique_ptr<Comm> world_;
  Mesh mesh_;
  TrainStep step_;
  int64_t held_;  ///< before the first step
  int64_t number_ = 0;
};

int64_t checkpoint_copy(const RunConfig& config, const Mesh& mesh, const ParamStore& params) {
  const int positions = mesh.data_sequence().size(), position = mesh.data_sequence().rank();
  const int writers = num_checkpoint_writers(config, positions, false);
  if (mesh.tensor().rank() > 0 || position >= writers) return 0;
  const ShardPlan shards(params.entries(), writers, int64_t(size_of(params.master_dtype())),
                         SaverOptions{}.block_bytes);
  return shards.num_blocks(position) * shards.block_bytes();
}

/// Between the first micro-batch of a step and its last one all that are alike take the same.
constexpr int64_t kEnoughPasses = 3;

std::vector<Batch> micro_batches(const StepRows& rows, int data) {
  const int64_t passes = rows.alike ? std::min(rows.passes, kEnoughPasses) : rows.passes;
  std::vector<Batch> batches;
  for (int64_t pass = 0; pass < passes; ++pass) batches.push_back(rows.micro_batch(data, pass));
  return batches;
}

/// Two steps of `batches`, the first of which takes what is taken once; then what the second one takes. Of
/// alike micro-batches there may be fewer than num_passes, which they stand for; one of them goes then.
RankPlan plan_steps(DryRun& run, std::vector<RankBatch>& batches, int64_t num_passes) {
  RankPlan plan;
  run.train(batches);
  plan.memory.first_peak = run.peak();
  StepCosts costs = run.train(batches, &plan.memory.gradients);
  plan.memory.peak = run.peak();
  if (const int64_t left_out = num_passes - int64_t(batches.size()); left_out > 0) {
    batches.pop_back();
    costs = extrapolated(costs, run.train(batches), left_out);
    // Every micro-batch's loss stays to the end of the step.
    plan.memory.first_peak += left_out * run.rounded(sizeof(double));
    plan.memory.peak += left_out * run.rounded(sizeof(double));
  }
  for (const auto& [key, traffic] : costs.traffic)
    plan.traffic.push_back({key.first, key.second, traffic.calls, traffic.received_bytes});
  plan.work = costs.work;
  return plan;
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

RankPlan plan_rank(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank,
                   const StepRows& rows) {
  DryRun run(config, tokenizer_vocab_size, world_size, rank);
  std::vector<RankBatch> batches = run.parts_of(micro_batches(rows, run.mesh().data().rank()));
  RankPlan plan = plan_steps(run, batches, rows.passes);
  plan.rank = rank;
  plan.num_parameters = run.step().params().num_parameters();
  run.fill_held(plan.memory);
  for (size_t i = 0; i < (rows.alike ? 1 : batches.size()); ++i)
    plan.memory.activations = std::max(plan.memory.activations, run.activations(batches[i]));
  plan.memory.checkpoint_copy = checkpoint_copy(config, run.mesh(), run.step().params());
  return plan;
}

RankPlan plan_rank(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank) {
  return plan_rank(config, tokenizer_vocab_size, world_size, rank,
                   rows_of_documents(config, tokenizer_vocab_size, world_size, 0));
}

MostOfAnyRank plan_ranks(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size,
                         const StepRows& rows) {
  const MeshShape shape = known_shape(config, world_size);
  const int ranks_of_data = shape.size() / shape.data;
  std::set<std::vector<std::vector<int64_t>>> planned;  // document starts by micro-batch
  MostOfAnyRank most;
  for (int data = 0; data < shape.data; ++data) {
    const std::vector<Batch> whole = micro_batches(rows, data);
    std::vector<std::vector<int64_t>> starts;
    for (const Batch& batch : whole) starts.push_back(batch.document_starts);
    if (!planned.insert(std::move(starts)).second) continue;
    for (int rank = data * ranks_of_data; rank < (data + 1) * ranks_of_data; ++rank) {
      DryRun run(config, tokenizer_vocab_size, world_size, rank);
      std::vector<RankBatch> batches = run.parts_of(whole);
      const RankPlan plan = plan_steps(run, batches, rows.passes);
      if (plan.memory.peak > most.peak) most.memory_rank = rank;
      if (plan.received_bytes() > most.received_bytes) most.traffic_rank = rank;
      most.peak = std::max(most.peak, plan.memory.peak);
      most.received_bytes = std::max(most.received_bytes, plan.received_bytes());
    }
    if (rows.alike) break;
  }
  return most;
}

int64_t fullest_step(const RunConfig& config, int64_t tokenizer_vocab_size, int world_size, int rank,
                     int64_t steps, const std::function<StepRows(int64_t step)>& rows) {
  DryRun run(config, tokenizer_vocab_size, world_size, rank);
  std::set<std::vector<int64_t>> tried;
  int64_t fullest = 0, most = -1;
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<Batch> batches = micro_batches(rows(step), run.mesh().data().rank());
    Batch& batch = *std::max_element(batches.begin(), batches.end(), [](const Batch& a, const Batch& b) {
      return a.document_starts.size() < b.document_starts.size();
    });
    if (!tried.insert(batch.document_starts).second) continue;
    const int64_t needed = run.activations(run.step().part_of(std::move(batch)));
    if (needed > most) fullest = step;
    most = std::max(most, needed);
  }
  return fullest;
}

}  // namespace spanwise
