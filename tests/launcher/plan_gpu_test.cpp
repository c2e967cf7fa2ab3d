// Plans of runs on GPUs, which need none.

#include <map>

#include "core/ops/cuda/common/gemm.h"
#include "core/ops/gated_delta.h"
#include "core/ops/linear.h"
#include "core/ops/linear_kernels.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/softmax_attention.h"
#include "launcher/config/config.h"
#include "launcher/plan.h"
#include "launcher/runtime.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr const char* kConfig = SPANWISE_SOURCE_DIR "/configs/gated_deltanet_1b.textproto";
constexpr int64_t kTokenizerSize = 4096;

struct MeasuredPeak {
  const char* name;
  double gib;  ///< of the tensors of an H200, `memory_bytes` of metrics.jsonl
  int ranks;
  std::vector<std::string> settings;
  /// Where a second document begins in the first row, as in some of the measured run's batches; 0: nowhere.
  int64_t second_document = 0;
};

StepRows rows_of(const RunConfig& config, const MeasuredPeak& c) {
  StepRows rows = rows_of_documents(config, kTokenizerSize, c.ranks, 0);
  if (c.second_document == 0) return rows;
  Batch batch = rows.micro_batch(0, 0);
  batch.document_starts.insert(batch.document_starts.begin() + 1, c.second_document);
  rows.micro_batch = [batch](int, int64_t) { return batch; };
  return rows;
}

std::vector<std::string> shape(int64_t rows, int64_t length) {
  return {fmt::format("train.global_batch={}", rows), fmt::format("train.micro_batch={}", rows),
          fmt::format("train.sequence_length={}", length)};
}

std::vector<std::string> with(std::vector<std::string> settings, const std::vector<std::string>& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

TEST(PlanOnGpus, PeaksAreWithinOnePercentOfThoseMeasured) {
  const std::vector<std::string> again = {"train.recompute_mixers=true"},
                                 checkpoints = {"train.activation_checkpointing=true"},
                                 four_layers = with(checkpoints, {"model.num_layers=4"}),
                                 narrow =
                                     with(four_layers,
                                          {"model.hidden_size=512", "model.vocab_size=4096",
                                           "model.intermediate_size=1408",
                                           "model.layer.L.gated_delta_net={num_heads: 4 head_dim: 128}"}),
                                 sequence = with(shape(1, 131072),
                                                 {"parallel.sequence=2", "train.recompute_mixers=true"});
  for (const MeasuredPeak& c : {
           MeasuredPeak{"nothing again", 72.4, 1, {}, 3000},
           {"mixers again", 55.6, 1, again},
           {"mixers and 12 MLPs again", 47.3, 1, with(again, {"train.recompute_mlp_layers=12"})},
           {"checkpoints", 29.5, 1, checkpoints},
           {"65536 tokens", 91.4, 1, with(again, shape(1, 65536))},
           {"65536 tokens, checkpoints", 39.5, 1, with(checkpoints, shape(1, 65536))},
           {"sequence ranks", 91.5, 2, sequence},
           {"sequence ranks, stage 1", 83.3, 2, with(sequence, {"parallel.zero_stage=1"})},
           {"stage 3", 62.9, 2, {"parallel.data=2", "parallel.zero_stage=3", "train.global_batch=16"}, 3000},
           {"tensor ranks", 40.0, 2, {"parallel.tensor=2"}, 3000},
           {"short rows", 84.7, 1, with(four_layers, shape(256, 2048))},
           {"one row", 84.8, 1, with(four_layers, shape(1, 524288))},
           {"narrow, short rows", 20.2, 1, with(narrow, shape(256, 2048))},
           {"narrow, one row", 20.3, 1, with(narrow, shape(1, 524288))},
       }) {
    SCOPED_TRACE(c.name);
    const RunConfig config = load_config(kConfig, c.settings);
    validate(config, c.ranks, kTokenizerSize, ConfigUse::kPlan);
    const PlannedMemory memory = plan_rank(config, kTokenizerSize, c.ranks, 0, rows_of(config, c)).memory;
    const double peak = double(std::max(memory.peak, memory.first_peak)) / double(1 << 30);
    EXPECT_NEAR(peak, c.gib, 0.01 * c.gib);
  }
}

TEST(PlanOnGpus, AutoInBF16IsCudaInEveryBuildAndOnEveryMachine) {
  const RunConfig given = load_config(kConfig, {"device=AUTO"}), config = config_to_plan(given);
  EXPECT_EQ(config.device(), RunConfig::CUDA);
  EXPECT_EQ(config_problems(config, 1, kTokenizerSize, ConfigUse::kPlan), std::vector<std::string>{});
  EXPECT_EQ(plan_rank(config, kTokenizerSize, 1, 0).memory.peak,
            plan_rank(load_config(kConfig, {}), kTokenizerSize, 1, 0).memory.peak);
}

// Sums of keys' and values' gradients travel in F32, twice what BF16 keys and values take.
TEST(PlanOnGpus, GradientsOfKeysTravelAsSums) {
  const auto backward_of_forward = [](const char* attention, const char* precision) {
    const RunConfig config =
        load_config(SPANWISE_SOURCE_DIR "/configs/hybrid_100m.textproto",
                    {"device=CUDA", "parallel.sequence=4", std::string("parallel.attention=") + attention,
                     std::string("train.precision=") + precision});
    std::map<std::string, int64_t> bytes;
    for (const PlannedTraffic& t : plan_rank(config, kTokenizerSize, 4, 0).traffic)
      bytes[t.name] += t.received_bytes;
    return double(bytes.at("attention_backward")) / double(bytes.at("attention_forward"));
  };
  EXPECT_EQ(backward_of_forward("RING", "BF16"), 3);
  EXPECT_EQ(backward_of_forward("RING", "F32"), 2);
  EXPECT_EQ(backward_of_forward("ALL_GATHER", "BF16"), 2);
  EXPECT_EQ(backward_of_forward("ALL_GATHER", "F32"), 1);
}

TEST(PlanOnGpus, OtherDevicesStayWhatTheyAre) {
  const auto planned = [](const std::vector<std::string>& settings) {
    return config_to_plan(load_config(kConfig, settings)).device();
  };
  EXPECT_EQ(planned({"device=AUTO", "train.precision=F32"}), RunConfig::AUTO);
  EXPECT_EQ(planned({"device=CPU"}), RunConfig::CPU);
  const RunConfig config = load_config(kConfig, {"device=CPU"});
  EXPECT_FALSE(config_problems(config, 1, kTokenizerSize, ConfigUse::kPlan).empty());
}

struct LinearStateCase {
  LinearStateShape shape;
  ChunkList chunks;
};

/// 8 rows of 4096 tokens, 16 heads of 128, in BF16.
LinearStateCase eight_rows(bool token_decay) {
  const LinearStateShape s{.rows = 8,
                           .length = 4096,
                           .key_heads = 16,
                           .value_heads = 16,
                           .key_dim = 128,
                           .value_dim = 128,
                           .dtype = DType::kBF16,
                           .token_decay = token_decay};
  return {s, ChunkList(SequenceLayout(s.rows, s.length), 64)};
}

// 64 chunks of 16 heads and 128 x 128 states: 8 KiB of inverses, of scores and 1 KiB of factors a chunk and
// head, 16 KiB of values and 32 KiB for the states before them.
TEST(OpBytesOnGpus, DeltaRuleSavesWhatItsHeaderSays) {
  const auto [s, chunks] = eight_rows(/*token_decay=*/true);
  EXPECT_EQ(gated_delta_bytes(Device::kCUDA, s, chunks).saved, int64_t{8 * 64 * 16} * (17 + 16 + 32) * 1024);
}

TEST(OpBytesOnGpus, ScalarDecaySavesStatesOnlyForGradientsOfDecays) {
  const auto saved = [](bool token_decay) {
    const auto [s, chunks] = eight_rows(token_decay);
    return scalar_decay_bytes(Device::kCUDA, s, chunks).saved;
  };
  EXPECT_EQ(saved(false), 0);
  // Every 512 tokens, and before the last chunk.
  EXPECT_EQ(saved(true), int64_t{8 * 9 * 16} * 128 * 128 * 2);
}

TEST(OpBytesOnGpus, AttentionInOneKernelSumsItsQueriesGradientInF32) {
  AttentionShape s{.batch = 8,
                   .num_queries = 4096,
                   .num_keys = 4096,
                   .heads = 16,
                   .kv_heads = 16,
                   .head_dim = 128,
                   .dtype = DType::kBF16,
                   .staggered = true};
  const int64_t queries = 8 * 4096 * 16;
  EXPECT_EQ(softmax_attention_bwd_bytes(Device::kCUDA, s), queries * 4 * (2 + 128) + (queries / 64 + 1) * 4);
  s.staggered = false;
  EXPECT_EQ(softmax_attention_bwd_bytes(Device::kCUDA, s), queries * 4 * 2);
  EXPECT_EQ(softmax_attention_bwd_bytes(Device::kCPU, s), 0);
}

// A head of 131,072 x 4,096: 2 GiB of gradient, of which as much is added to at once as is measured beside
// it.
TEST(OpBytesOnGpus, ChoosingAProductForAGradientTakesABoundedPartOfIt) {
  const int64_t vocabulary = 131072, hidden = 4096, row = hidden * 4;
  EXPECT_EQ(linear_trial_bytes(Device::kCUDA, 4096, vocabulary, hidden), int64_t{256} << 20);
  EXPECT_EQ(cuda::gemm_rows_at_once(vocabulary, row) * row, cuda::kGemmTrialBytes);
  EXPECT_EQ(linear_trial_bytes(Device::kCUDA, 4096, 2048, hidden), 2048 * row);
  EXPECT_EQ(linear_trial_bytes(Device::kCUDA, 1, 2048, hidden), 0);  // not worth measuring
  EXPECT_EQ(linear_trial_bytes(Device::kCPU, 4096, vocabulary, hidden), 0);
  for (const int64_t rows : {65537, 70001, 131072, 200000}) {
    const int64_t at_once = cuda::gemm_rows_at_once(rows, row);
    EXPECT_LE(at_once * row, cuda::kGemmTrialBytes) << rows;
    EXPECT_EQ(at_once % 256, 0) << rows;
  }
}

}  // namespace
}  // namespace spanwise::testing
