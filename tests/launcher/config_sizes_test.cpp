// Fields that are in range each and too large together.

#include "launcher/config/sizes.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/check.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"
#include "launcher/plan.h"
#include "parallel/mesh.h"

namespace spanwise {
namespace {

const std::string kGood = R"(run { dir: "runs/x" } device: CPU data { train { path: "runs/data" } })";
constexpr int64_t kVocab = 4096;

std::vector<std::string> problems(const std::vector<std::string>& settings) {
  return config_problems(parse_config(kGood, "x", settings), 1, kVocab, ConfigUse::kPlan);
}

struct TooLarge {
  std::vector<std::string> settings;
  std::string named;  ///< in the one sentence
};

TEST(ConfigSizes, AProductThatIntegersDoNotHoldIsOneSentenceNamingItsFields) {
  for (const TooLarge& c : std::vector<TooLarge>{
           // 2^27 x 2^27: a matrix with hidden 1024 has 2^64 elements, which is none.
           {{"model.layer_pattern=N", "model.layer.N.attention.num_heads=1000000",
             "model.layer.N.attention.num_kv_heads=1", "model.layer.N.attention.head_dim=18014398"},
            "model.layer.N.attention.num_heads 1000000 x 18014398 channels a head"},
           {{"model.layer.L.gated_delta_net.num_heads=1000000",
             "model.layer.L.gated_delta_net.head_dim=1000000"},
            "model.layer.L.gated_delta_net.num_heads 1000000 x 1000000 channels a head"},
           {{"model.layer.L.gated_delta_net.num_heads=4", "model.layer.L.gated_delta_net.head_dim=64",
             "model.layer.L.gated_delta_net.expand_v=100000000"},
            "model.layer.L.gated_delta_net.num_heads 4 x 6400000000 channels a head"},
           {{"model.hidden_size=1000000000", "model.layer.L.gated_delta_net.head_dim=64"},
            "a SwiGLU width of "},
           {{"model.hidden_size=100000000", "model.layer.L.gated_delta_net.head_dim=64",
             "model.intermediate_size=1000000000"},
            "model.num_layers 8 x model.hidden_size 100000000 x "},
           {{"model.hidden_size=1048576", "model.layer.L.gated_delta_net.head_dim=64",
             "model.intermediate_size=64", "model.vocab_size=1000000000"},
            "model.hidden_size 1048576 x a vocabulary of 1000000000"},
           {{"train.sequence_length=1000000000", "train.micro_batch=1000000", "train.global_batch=1000000",
             "train.steps=1"},
            "train.micro_batch 1000000 x train.sequence_length 1000000000 is 1e+15 tokens on a rank at once"},
           {{"train.sequence_length=100000000", "train.global_batch=1000000000", "train.steps=1000000000"},
            "train.steps 1000000000 x train.global_batch 1000000000 x train.sequence_length 100000000"},
           {{"train.global_batch=1000000000", "train.sequence_length=100000", "train.steps=1"},
            "in each of the 1000000000 passes of a step"},
           {{"train.sequence_length=50000000", "model.chunk_size=1000000000"}, "model.chunk_size 1000000000"},
           {{"model.layer.L.gated_delta_net.head_dim=10000000", "model.layer.L.gated_delta_net.num_heads=10"},
            "states of model.layer.L.gated_delta_net's 10 value heads of 10000000 x 10000000 channels"},
       }) {
    const std::vector<std::string> said = problems(c.settings);
    ASSERT_EQ(said.size(), 1) << c.named;
    EXPECT_NE(said[0].find(c.named), std::string::npos) << said[0] << "\n  instead of " << c.named;
    EXPECT_NE(said[0].find("can be counted: lower one of them"), std::string::npos) << said[0];
  }
}

// A GPU's limits are products as well.
TEST(ConfigSizes, AreJudgedBeforeTheLimitsOfAGpu) {
  const std::vector<std::string> said =
      problems({"device=CUDA", "train.precision=BF16", "model.layer.L.gated_delta_net.num_heads=1000000",
                "model.layer.L.gated_delta_net.head_dim=1000000000",
                "model.layer.L.gated_delta_net.expand_v=1000000000"});
  ASSERT_EQ(said.size(), 1);
  EXPECT_NE(said[0].find("is 1e+15 channels"), std::string::npos) << said[0];
}

TEST(ConfigSizes, CountsOfThingsThatAreMadeAreBounded) {
  for (const auto& [setting, sentence] : std::vector<std::pair<std::string, std::string>>{
           {"train.threads=100000", "train.threads is 100000; it must be at most 1024"},
           {"model.num_layers=100000000", "model.num_layers is 100000000; it must be at most 10000"},
           {"model.layer.L.gated_delta_net.num_heads=134217728",
            "model.layer.L.gated_delta_net.num_heads is 134217728; it must be at most 1000000"},
           {"parallel.tensor=1000000000", "parallel.tensor is 1000000000; it must be at most 1000000"}}) {
    EXPECT_EQ(problems({setting}), std::vector<std::string>{sentence});
  }
  EXPECT_EQ(problems({"train.threads=1024"}), std::vector<std::string>{});
}

TEST(ConfigSizes, TheLargestModelsThatAnyoneTrainsAreFarBelow) {
  EXPECT_EQ(problems({"model.num_layers=200", "model.layer_pattern=LN", "model.hidden_size=65536",
                      "model.vocab_size=1000000", "model.layer.N.attention.num_heads=512",
                      "model.layer.L.gated_delta_net.num_heads=512", "train.sequence_length=500000",
                      "train.global_batch=1000", "train.steps=1000000"}),
            std::vector<std::string>{});
}

/// A number from 1 to `most`, small ones as often as large ones.
int64_t any(const RandomStream& random, uint64_t& at, double most) {
  return int64_t(std::exp(double(random.below(at++, 1'000'000)) / 1e6 * std::log(most)));
}

// What passes is planned without overflow: parameters are those counted in double, and nothing is negative.
TEST(ConfigSizes, WhateverPassesIsPlannedInPositiveNumbers) {
  const RandomStream random(11, "configs");
  uint64_t at = 0;
  int planned = 0;
  for (int draw = 0; draw < 1000; ++draw) {
    const int64_t micro = any(random, at, 1e4);
    const std::vector<std::string> settings{
        fmt::format("model.layer_pattern={}", draw % 2 == 0 ? "L" : "N"),
        fmt::format("model.num_layers={}", any(random, at, 20)),
        fmt::format("model.hidden_size={}", any(random, at, 1e9)),
        fmt::format("model.intermediate_size={}", any(random, at, 1e9)),
        fmt::format("model.vocab_size={}", kVocab + any(random, at, 9e8)),
        fmt::format("model.chunk_size={}", any(random, at, 1e9)),
        fmt::format("model.layer.{}={{{} {{num_heads: {} head_dim: {}}}}}", draw % 2 == 0 ? "L" : "N",
                    draw % 4 == 0   ? "gated_delta_net"
                    : draw % 2 == 0 ? "linear_attention"
                                    : "attention",
                    any(random, at, 1e4), 2 * any(random, at, 4e8)),
        fmt::format("train.micro_batch={}", micro),
        fmt::format("train.global_batch={}", micro * any(random, at, 1e9 / double(micro))),
        fmt::format("train.sequence_length={}", any(random, at, 1e5 / double(micro))),
        fmt::format("train.steps={}", any(random, at, 1e9))};
    std::vector<std::string> usable;
    for (const std::string& setting : settings) {
      if (draw % 2 == 1 && setting.starts_with("model.chunk")) continue;
      usable.push_back(setting);
    }
    const RunConfig config = parse_config(kGood, "x", usable);
    const std::vector<std::string> said = config_problems(config, 1, kVocab, ConfigUse::kPlan);
    ASSERT_LE(said.size(), 1) << fmt::format("{}", fmt::join(said, "\n"));
    if (!said.empty()) continue;
    SCOPED_TRACE(fmt::format("{}", fmt::join(usable, " ")));
    ++planned;
    const RankPlan plan = plan_rank(config, kVocab, 1, 0);
    const std::unique_ptr<Comm> self = make_self_comm();
    const Mesh mesh(*self, {});
    LanguageModel model(language_model_options(config, kVocab, mesh));
    double parameters = 0;
    model.visit("", [&](const std::string&, Param& param) {
      double numel = 1;
      for (const int64_t dim : param.shape.to_vector()) numel *= double(dim);
      parameters += numel;
    });
    EXPECT_NEAR(double(plan.num_parameters), parameters, 1e-9 * parameters);
    // Of which allocations are rounded up by an eighth at most.
    EXPECT_GE(double(plan.memory.optimizer), 8 * parameters);
    EXPECT_LE(double(plan.memory.optimizer), 9 * parameters + 1e6);
    const double stream = double(config.train().micro_batch()) * double(config.train().sequence_length()) *
                          double(config.model().hidden_size());
    EXPECT_GE(double(plan.memory.activations), stream);
    EXPECT_GE(plan.memory.peak, plan.memory.activations);
  }
  EXPECT_GT(planned, 100);
}

TEST(Shape, AnElementCountThat64BitsDoNotHoldIsAnError) {
  const int64_t big = int64_t{1} << 32;
  EXPECT_THROW(Shape({big, big}).numel(), Error);
  EXPECT_THROW(Shape({big, big, 4}).numel(), Error);
  EXPECT_EQ(Shape({big, big, 0}).numel(), 0);
  EXPECT_EQ(Shape({big, big / 4}).numel(), int64_t{1} << 62);
}

}  // namespace
}  // namespace spanwise
