// The peak that `plan` gives without running is within a tenth of the activations of what a run needs.

#include "core/check.h"
#include "core/context.h"
#include "tests/launcher/program/planned_run.h"

namespace spanwise::testing {
namespace {

/// What the allocator adds to buffers of these sizes, as it rounds them up. Gradients are one buffer in
/// models as small as these.
int64_t rounding_bytes(const PlannedMemory& memory) {
  Context ctx;
  std::vector<std::shared_ptr<Buffer>> held;
  int64_t asked = 0;
  for (const int64_t bytes :
       {memory.parameters, memory.gradients, memory.optimizer / 2, memory.optimizer / 2}) {
    held.push_back(ctx.allocate(size_t(bytes)));
    asked += bytes;
  }
  return int64_t(ctx.memory().live_bytes) - asked;
}

class ProgramPlanActivations : public PlannedRunTest {
 protected:
  /// Runs the case with and without activation checkpointing. A plan may take `early` of the gradients to be
  /// there before they are.
  void expect_planned_activations(const PlanCase& c, double early = 0) {
    expect_planned_activations(
        c, {"train.activation_checkpointing=false", "train.activation_checkpointing=true"}, early);
  }

  /// Runs the case with each of these settings. Every config is of this size but for its own settings.
  void expect_planned_activations(const PlanCase& c, const std::vector<std::string>& variants,
                                  double early = 0) {
    for (const std::string& variant : variants) {
      PlanCase sized{fmt::format("{}_{}", c.name, &variant - variants.data()),
                     c.ranks,
                     {"train.sequence_length=256", "model.hidden_size=64", "model.intermediate_size=160",
                      "train.micro_batch=2", "model.chunk_size=32", variant}};
      sized.settings.insert(sized.settings.end(), c.settings.begin(), c.settings.end());
      SCOPED_TRACE(c.name + " " + variant);
      run_case(sized);
      const RankPlan planned = plan(sized, 0);
      const int64_t measured = fields_of(lines()[1], "memory_bytes").at("memory_bytes");
      const double asked = double(measured - rounding_bytes(planned.memory)),
                   tenth = 0.1 * double(planned.memory.activations);
      EXPECT_GE(double(planned.memory.peak), asked - tenth);
      EXPECT_LE(double(planned.memory.peak), asked + tenth + early * double(planned.memory.gradients));
    }
  }

  /// A case on 2 and 4 sequence ranks, contiguous and zigzag.
  void expect_planned_over_ranks(const std::string& name, const std::vector<std::string>& settings) {
    for (const int ranks : {2, 4}) {
      for (const char* partition : {"CONTIGUOUS", "ZIGZAG"}) {
        PlanCase c{fmt::format("{}_{}_{}", name, ranks, partition),
                   ranks,
                   {"model.num_layers=2", fmt::format("parallel.sequence={}", ranks),
                    fmt::format("parallel.partition={}", partition)}};
        c.settings.insert(c.settings.end(), settings.begin(), settings.end());
        expect_planned_activations(c);
      }
    }
  }
};

TEST_F(ProgramPlanActivations, OfAHybridAreWithinATenthOfThoseMeasured) {
  for (const PlanCase& c : {
           PlanCase{"gated_delta", 1, {}},
           {"wide_vocabulary", 1, {"model.vocab_size=3000", "train.loss_chunk_tokens=64"}},
           {"all_options",
            1,
            {"model.layer.N.attention={num_heads: 4 num_kv_heads: 2 qk_norm: true output_gate: true}",
             "model.layer.L.gated_delta_net.num_value_heads=4", "train.precision=F32"}},
           {"delta", 1, {"model.layer.L={delta_net {num_heads: 2 output_gate: false}}"}},
           {"linear_attention", 1, {"model.layer.L={linear_attention {num_heads: 2}}"}},
           {"elu", 1, {"model.layer.L={linear_attention {num_heads: 2 feature_map: ELU}}"}},
           {"lightning", 1, {"model.layer.L={lightning {num_heads: 2}}"}},
           {"retention", 1, {"model.layer.L={retention {num_heads: 2}}", "train.precision=F32"}},
           {"mamba2", 1, {"model.layer.L={mamba2 {num_heads: 2 state_size: 16}}"}},
           {"tensor", 2, {"parallel.tensor=2"}},
           {"tensor_vocabulary",
            2,
            {"parallel.tensor=2", "model.vocab_size=3000", "train.loss_chunk_tokens=64"}},
           {"tensor_linear_attention",
            2,
            {"parallel.tensor=2", "model.layer.L={linear_attention {num_heads: 2}}"}},
           {"tensor_lightning", 2, {"parallel.tensor=2", "model.layer.L={lightning {num_heads: 2}}"}},
           {"tensor_retention", 2, {"parallel.tensor=2", "model.layer.L={retention {num_heads: 2}}"}},
           {"tensor_mamba2",
            2,
            {"parallel.tensor=2", "model.layer.L={mamba2 {num_heads: 2 state_size: 16}}"}},
           {"sharded_norms", 2, {"parallel.tensor=2", "parallel.shard_norms=true"}},
           {"sharded_norms_mamba2",
            2,
            {"parallel.tensor=2", "parallel.shard_norms=true",
             "model.layer.L={mamba2 {num_heads: 2 state_size: 16}}"}},
           {"sharded_norms_four",
            4,
            {"parallel.tensor=4", "parallel.shard_norms=true", "model.layer.N.attention.num_heads=4",
             "model.layer.L.gated_delta_net.num_heads=4"}},
           {"sharded_norms_sequence",
            4,
            {"parallel.tensor=2", "parallel.sequence=2", "parallel.shard_norms=true"}},
           {"sequence", 2, {"parallel.sequence=2"}},
           {"zigzag", 2, {"parallel.sequence=2", "parallel.partition=ZIGZAG"}},
           {"sequence_delta", 2, {"parallel.sequence=2", "model.layer.L={delta_net {num_heads: 2}}"}},
           {"sequence_linear_attention",
            2,
            {"parallel.sequence=2", "model.layer.L={linear_attention {num_heads: 2}}"}},
           {"sequence_lightning", 2, {"parallel.sequence=2", "model.layer.L={lightning {num_heads: 2}}"}},
           {"sequence_retention", 2, {"parallel.sequence=2", "model.layer.L={retention {num_heads: 2}}"}},
           {"sequence_mamba2",
            2,
            {"parallel.sequence=2", "model.layer.L={mamba2 {num_heads: 2 state_size: 16}}"}},
           {"tensor_sequence", 4, {"parallel.tensor=2", "parallel.sequence=2"}},
           {"tensor_chain_ring",
            4,
            {"parallel.tensor=2", "parallel.sequence=2", "parallel.exchange=CHAIN",
             "parallel.attention=RING"}},
           // AUTO divides the heads of large states.
           {"auto_head_split", 2, {"parallel.sequence=2", "model.layer.L.gated_delta_net.head_dim=384"}},
           {"uneven_window",
            4,
            {"parallel.sequence=4", "train.sequence_length=250", "model.layer.N.attention.window=70"}},
       }) {
    expect_planned_activations(c);
  }
}

TEST_F(ProgramPlanActivations, OfRecomputedMixersAndMlpsAreWithinATenthOfThoseMeasured) {
  for (const PlanCase& c : {
           PlanCase{"again_gated_delta", 1, {}},
           {"again_mamba2", 1, {"model.layer.L={mamba2 {num_heads: 2 state_size: 16}}"}},
           {"again_tensor", 2, {"parallel.tensor=2"}},
           {"again_lightning", 2, {"parallel.sequence=2", "model.layer.L={lightning {num_heads: 2}}"}},
       }) {
    expect_planned_activations(c, {"train.recompute_mixers=true", "train.recompute_mlp_layers=2",
                                   "train={recompute_mixers: true recompute_mlp_layers: 2}"});
  }
}

// One micro-batch a step: gradients come while activations go.
TEST_F(ProgramPlanActivations, WithGradientsOfOnePassAreWithinATenthOfThoseMeasured) {
  for (const PlanCase& c : {
           PlanCase{"one_pass", 1, {"train.global_batch=2"}},
           {"one_pass_tied", 1, {"train.global_batch=2", "model.tie_embeddings=true"}},
           {"one_pass_sequence", 2, {"train.global_batch=2", "parallel.sequence=2"}},
           {"one_pass_zero1", 2, {"parallel.zero_stage=1"}},
           {"one_pass_zero2", 2, {"parallel.zero_stage=2"}},
           {"one_pass_zero3", 2, {"parallel.zero_stage=3"}},
           {"several_zero3", 2, {"train.global_batch=8", "parallel.zero_stage=3"}},
       }) {
    expect_planned_activations(c);
  }
}

// A layer's gradients are counted from the start of its backward.
TEST_F(ProgramPlanActivations, WithGradientsInManyBucketsAreWithinATenthAndALayerOfThoseMeasured) {
  const std::vector<std::string> large = {"model.hidden_size=512", "model.intermediate_size=1280",
                                          "train.micro_batch=1"};
  PlanCase replicated{"many_buckets", 1, large}, sharded{"many_buckets_zero2", 2, large};
  replicated.settings.push_back("train.global_batch=1");
  sharded.settings.insert(sharded.settings.end(), {"train.global_batch=2", "parallel.zero_stage=2"});
  for (const PlanCase& c : {replicated, sharded}) expect_planned_activations(c, /*early=*/0.25);
}

// In the tests below a layer's exchange is what decides its peak: states are larger than what a rank's tokens
// take, and keys and values of other ranks as large.

TEST_F(ProgramPlanActivations, OfEveryStateExchangeAreWithinATenthOfThoseMeasured) {
  for (const char* mixer : {"gated_delta_net", "retention"}) {  // dense transitions, and decays
    for (const std::string exchange : {"ALL_GATHER", "CHAIN", "HEAD_SPLIT", "TWO_LEVEL"}) {
      std::vector<std::string> settings = {
          "model.layer_pattern=L", "train.sequence_length=128",
          fmt::format("model.layer.L={{{} {{num_heads: 4 head_dim: 64}}}}", mixer),
          fmt::format("parallel.exchange={}", exchange)};
      if (exchange == "TWO_LEVEL") settings.push_back("parallel.ranks_per_node=2");
      expect_planned_over_ranks(fmt::format("{}_{}", mixer, exchange), settings);
    }
  }
}

TEST_F(ProgramPlanActivations, OfEveryAttentionExchangeAreWithinATenthOfThoseMeasured) {
  const auto attention = [&](const std::string& name, const char* window, const char* exchange) {
    expect_planned_over_ranks(
        name, {"model.layer_pattern=N", "model.chunk_size=",
               fmt::format("model.layer.N.attention={{num_heads: 4 num_kv_heads: 2 head_dim: 64 window: {}}}",
                           window),
               fmt::format("parallel.attention={}", exchange)});
  };
  attention("ring", "0", "RING");
  attention("ulysses", "0", "ULYSSES");
  attention("window", "5", "ALL_GATHER");
  attention("wide_window", "150", "ALL_GATHER");
}

}  // namespace
}  // namespace spanwise::testing
