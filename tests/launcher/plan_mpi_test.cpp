// A plan is what a run takes, to the byte: every rank runs every case that its number of ranks fits, and
// plans itself.

#include <gtest/gtest.h>

#include <map>

#include "core/check.h"
#include "launcher/objects.h"
#include "launcher/plan.h"
#include "launcher/train_step.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

using Settings = std::vector<std::string>;

constexpr int64_t kVocab = 260;
constexpr double kTimeoutS = 60;

constexpr const char* kConfig = R"(
run { dir: "run" }
device: CPU
train { steps: 8 sequence_length: 96 global_batch: 8 micro_batch: 2 precision: F64 threads: 1 }
model {
  hidden_size: 32 num_layers: 2 intermediate_size: 80 chunk_size: 16 layer_pattern: "LN"
  layer { letter: "L" gated_delta_net { num_heads: 4 } swiglu {} }
  layer { letter: "N" attention { num_heads: 4 num_kv_heads: 2 } swiglu {} }
}
data { train { path: "none" } }
optimizer { learning_rate: 1e-3 warmup_steps: 2 schedule_steps: 8 }
)";

Comm& world() {
  static const std::unique_ptr<Comm> comm = [] {
    std::unique_ptr<Comm> made = make_world_comm();
    made->set_timeout(kTimeoutS);
    return made;
  }();
  return *comm;
}

using Bytes = std::map<std::string, int64_t>;

/// What a run of these settings takes on this rank, as a plan tells it.
RankPlan measure(const RunConfig& config, const StepRows& rows) {
  Context ctx({.device = Device::kCPU, .num_threads = 1, .poison = true});
  const MeshShape shape = mesh_shape(config, world().size());
  const Mesh mesh(world(), shape);
  TrainStep step(config, kVocab, mesh, ctx);
  RankPlan measured{.rank = world().rank(), .num_parameters = step.params().num_parameters()};
  StepVotes votes;
  for (int64_t number : {1, 2}) {
    std::vector<RankBatch> batches;
    for (int64_t pass = 0; pass < rows.passes; ++pass)
      batches.push_back(step.part_of(rows.micro_batch(mesh.data().rank(), pass)));
    ctx.reset_peak();
    ctx.reset_work();
    for (Comm* comm : mesh.comms()) comm->reset_traffic();
    step.train(batches, step.count_targets(batches, votes).value(), number, votes);
    (number == 1 ? measured.memory.first_peak : measured.memory.peak) = int64_t(ctx.memory().peak_bytes);
    measured.work = ctx.work();
    measured.traffic.clear();
    for (const Comm* comm : mesh.comms()) {
      for (const auto& [name, traffic] : comm->traffic())
        measured.traffic.push_back({comm->axis(), name, traffic.calls, traffic.received_bytes});
    }
  }
  return measured;
}

Bytes traffic_of(const RankPlan& plan) {
  Bytes bytes;
  for (const PlannedTraffic& t : plan.traffic) {
    if (t.received_bytes > 0) bytes[fmt::format("{} {} calls", t.axis, t.name)] = t.calls;
    if (t.received_bytes > 0) bytes[fmt::format("{} {} bytes", t.axis, t.name)] = t.received_bytes;
  }
  return bytes;
}

void expect_planned(const Settings& settings) {
  // One document a row, and documents that end inside rows, parts and chunks.
  for (const int64_t document_tokens : {0, 23}) {
    SCOPED_TRACE(fmt::format("{} on {} ranks, documents of {} tokens", fmt::join(settings, " "),
                             world().size(), document_tokens));
    const RunConfig config = parse_config(kConfig, "plan_mpi_test", settings);
    validate(config, world().size(), kVocab);
    const StepRows rows = rows_of_documents(config, kVocab, world().size(), document_tokens);
    const RankPlan measured = measure(config, rows),
                   planned = plan_rank(config, kVocab, world().size(), world().rank(), rows);
    EXPECT_EQ(planned.num_parameters, measured.num_parameters);
    EXPECT_EQ(planned.memory.peak, measured.memory.peak);
    EXPECT_EQ(planned.memory.first_peak, measured.memory.first_peak);
    EXPECT_EQ(traffic_of(planned), traffic_of(measured));
    EXPECT_DOUBLE_EQ(planned.work.flops, measured.work.flops);
    EXPECT_DOUBLE_EQ(planned.work.recomputed_flops, measured.work.recomputed_flops);
    // An element that several tensor ranks hold is read by the norm on one of them; a plan does not know
    // which.
    const bool shared = config.parallel().tensor() > 1;
    EXPECT_GE(planned.work.bytes, measured.work.bytes);
    EXPECT_LE(planned.work.bytes, measured.work.bytes * (shared ? 1.001 : 1));
  }
}

Settings with(Settings settings, const Settings& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

/// Layouts of this number of ranks.
std::vector<Settings> layouts() {
  switch (world().size()) {
    case 1:
      return {{}};
    case 2:
      return {{}, {"parallel.sequence=2"}, {"parallel.tensor=2"}};
    default:
      return {{"parallel.sequence=4"}, {"parallel.sequence=2", "parallel.tensor=2"}};
  }
}

Settings mixer(const std::string& fields) {
  return {"model.layer.L={" + fields + "}"};
}

TEST(PlanOfARun, IsExactForEveryMixer) {
  for (const Settings& layout : layouts()) {
    for (const char* fields :
         {"gated_delta_net {num_heads: 4 num_value_heads: 8}", "delta_net {num_heads: 4 output_gate: false}",
          "linear_attention {num_heads: 4 feature_map: ELU}", "lightning {num_heads: 4}",
          "retention {num_heads: 4}", "mamba2 {num_heads: 4 state_size: 16}"})
      expect_planned(with(layout, mixer(fields)));
    expect_planned(with(layout, {"model.layer.N.attention={qk_norm: true output_gate: true window: 21}"}));
  }
}

TEST(PlanOfARun, IsExactForEveryZeroStage) {
  for (const Settings& layout : layouts()) {
    for (const int stage : {0, 1, 2, 3}) {
      const Settings zero = with(layout, {fmt::format("parallel.zero_stage={}", stage)});
      expect_planned(zero);
      // One micro-batch a step, so that gradients come while activations go.
      const RunConfig config = parse_config(kConfig, "plan_mpi_test", layout);
      const int64_t rows = 2 * mesh_shape(config, world().size()).data;
      expect_planned(with(zero, {fmt::format("train.global_batch={}", rows), "model.tie_embeddings=true"}));
    }
  }
}

TEST(PlanOfARun, IsExactForWhatIsComputedAgain) {
  for (const Settings& layout : layouts()) {
    for (const Settings& again : {Settings{"train.activation_checkpointing=true"},
                                  {"train.recompute_mixers=true"},
                                  {"train.recompute_mlp_layers=1", "train.precision=F32"},
                                  {"train.activation_checkpointing=true", "train.loss_chunk_tokens=24"}})
      expect_planned(with(layout, again));
  }
}

TEST(PlanOfARun, IsExactForEveryExchange) {
  if (world().size() == 1) return expect_planned({});
  for (const char* partition : {"CONTIGUOUS", "ZIGZAG"}) {
    const Settings layout = {fmt::format("parallel.sequence={}", world().size()),
                             fmt::format("parallel.partition={}", partition)};
    for (const char* fields : {"gated_delta_net {num_heads: 4}", "retention {num_heads: 4}"}) {
      for (const std::string exchange : {"AUTO", "ALL_GATHER", "CHAIN", "HEAD_SPLIT", "TWO_LEVEL"}) {
        Settings settings = with(layout, with(mixer(fields), {"parallel.exchange=" + exchange}));
        if (exchange == "TWO_LEVEL") settings.push_back("parallel.ranks_per_node=2");
        expect_planned(settings);
      }
    }
    for (const Settings& attention :
         {Settings{"parallel.attention=ALL_GATHER"},
          {"parallel.attention=RING"},
          {"parallel.attention=ULYSSES", "model.layer.N.attention.num_kv_heads=4"},
          {"model.layer.N.attention.window=5"},
          {"model.layer.N.attention.window=60"},
          // Not every rank has as many tokens, and some have none.
          {"train.sequence_length=13"}})
      expect_planned(with(layout, attention));
  }
}

TEST(PlanOfARun, IsExactForShardedNormsAndSharedHeads) {
  if (world().size() == 1) return expect_planned({"train.micro_batch=1"});
  const Settings layout = world().size() == 2 ? Settings{"parallel.tensor=2"}
                                              : Settings{"parallel.tensor=2", "parallel.sequence=2"};
  for (const Settings& more : {Settings{},
                               {"parallel.shard_norms=true"},
                               {"parallel.shard_norms=true", "train.sequence_length=17",
                                "train.micro_batch=1", "train.activation_checkpointing=true"},
                               {"model.layer.N.attention.num_kv_heads=1"},
                               {"parallel.shard_norms=true", "parallel.zero_stage=2"}})
    expect_planned(with(layout, more));
}

// Of many that are alike a plan runs three.
TEST(PlanOfARun, IsExactForAnyNumberOfMicroBatches) {
  for (const Settings& layout : layouts()) {
    const RunConfig config = parse_config(kConfig, "plan_mpi_test", layout);
    for (const int64_t passes : {1, 2, 3, 4, 7}) {
      const int64_t rows = passes * config.train().micro_batch() * mesh_shape(config, world().size()).data;
      expect_planned(with(layout, {fmt::format("train.global_batch={}", rows)}));
    }
  }
}

TEST(PlanOfARun, IsExactForSeveralBucketsAndAWideVocabulary) {
  const Settings wide{"model.hidden_size=512", "model.intermediate_size=1280", "model.vocab_size=3000",
                      "train.loss_chunk_tokens=24"};
  for (const char* stage : {"parallel.zero_stage=0", "parallel.zero_stage=2", "parallel.zero_stage=3"})
    expect_planned(with(wide, {stage}));
}

// On a world that nobody started.
TEST(Plans, PartsMakeThePeakAndTheMostOfAnyRankIsThatOfOne) {
  const RunConfig config = parse_config(kConfig, "plan_mpi_test",
                                        {"train.global_batch=8", "parallel.sequence=2",
                                         "parallel.partition=ZIGZAG", "train.sequence_length=31"});
  const StepRows rows = rows_of_documents(config, kVocab, 4, 7);
  int64_t peak = 0, received = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const RankPlan plan = plan_rank(config, kVocab, 4, rank, rows);
    const PlannedMemory& m = plan.memory;
    EXPECT_GE(m.peak, m.parameters + m.optimizer + m.gradients);
    EXPECT_LE(m.peak, m.parameters + m.optimizer + m.gradients + m.activations + 4096);
    peak = std::max(peak, m.peak);
    received = std::max(received, plan.received_bytes());
  }
  const MostOfAnyRank most = plan_ranks(config, kVocab, 4, rows);
  EXPECT_EQ(most.peak, peak);
  EXPECT_EQ(most.received_bytes, received);
}

}  // namespace
}  // namespace spanwise::testing
