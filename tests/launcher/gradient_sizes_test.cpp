#include "launcher/gradient_sizes.h"

#include "parallel/gradient_reducer.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {
namespace {

constexpr int kRanks = 2, kLayers = 4;
constexpr int kNorm = 1 + kLayers, kLoss = kNorm + 1;

struct Planned {
  Planned(int zero_stage, bool tied, int64_t bucket_elems, const std::string& partial = "-")
      : model(options(tied)),
        layout(make_layout(model, bucket_elems, partial)),
        sizes(layout, model, DType::kF32, zero_stage) {}

  /// Gradients of parameters whose names begin with `partial` are to be summed over tensor ranks.
  static ParamLayout make_layout(LanguageModel& model, int64_t bucket_elems, const std::string& partial) {
    model.visit("", [&](const std::string& name, Param& param) {
      param.placement.partial_gradient = name.starts_with(partial);
    });
    return ParamLayout(model, {.num_slices = kRanks,
                               .slice = 0,
                               .bucket_elems = bucket_elems,
                               .tensor_parallel = true,
                               .parts = {}});
  }

  static LanguageModelOptions options(bool tied) {
    const MixerSizes sizes{.heads = {.num_heads = 2, .num_value_heads = 4, .key_dim = 64, .value_dim = 64}};
    return {.vocab_size = 50,
            .tie_embeddings = tied,
            .layers = layers_of("L", kLayers, "gated_delta_net", sizes, SwigluOptions{.intermediate = 40}),
            .shared = {.hidden = 32, .norm_eps = 1e-6, .linear = {.init_stddev = 0.02}}};
  }
  /// Bytes of the buckets with a parameter of any of these names.
  int64_t bytes_with(const std::vector<std::string>& prefixes) const {
    int64_t bytes = 0;
    for (const ParamBucket& bucket : layout.buckets()) {
      bool any = false;
      for (const int e : bucket.entries) {
        for (const std::string& prefix : prefixes) any |= layout.entries()[e].name.starts_with(prefix);
      }
      if (any) bytes += bucket.range.numel() * int64_t(sizeof(float));
    }
    return bytes;
  }

  LanguageModel model;
  ParamLayout layout;
  GradientSizes sizes;
};

TEST(GradientSizes, BucketsComeWithTheFirstPartThatBackwardReaches) {
  for (const int64_t bucket_elems : {1, 5000}) {
    const Planned untied(0, false, bucket_elems), tied(0, true, bucket_elems);
    EXPECT_EQ(untied.sizes.during(kLoss), untied.bytes_with({"lm_head."}));
    EXPECT_EQ(tied.sizes.during(kLoss), tied.bytes_with({"model.embeddings."}));
    EXPECT_EQ(untied.sizes.during(3),
              untied.bytes_with({"lm_head.", "model.norm.", "model.layers.3.", "model.layers.2."}));
    EXPECT_EQ(untied.sizes.during(0), untied.sizes.whole());
    EXPECT_EQ(tied.sizes.during(1), tied.sizes.whole());
  }
}

TEST(GradientSizes, OneBucketIsThereFromTheLossOn) {
  for (const int stage : {0, 2}) {
    const Planned planned(stage, false, 1 << 20);
    ASSERT_EQ(planned.layout.buckets().size(), 1u);
    EXPECT_EQ(planned.sizes.during(kLoss), planned.sizes.whole());
    EXPECT_EQ(planned.sizes.at_update(), planned.sizes.whole() / (stage == 0 ? 1 : kRanks));
  }
}

TEST(GradientSizes, ShardedOnesAreSlicesAndTheBucketsThatFillOrAreReduced) {
  const Planned planned(2, false, 1);  // every parameter is a bucket
  int64_t largest = 0;
  for (const ParamBucket& bucket : planned.layout.buckets())
    largest = std::max(largest, bucket.range.numel() * int64_t(sizeof(float)));
  const int64_t whole = int64_t(GradientReducer::kMaxInFlightSharded) + 1;
  for (int part = 0; part <= kLoss; ++part) {
    const int64_t slices = Planned(0, false, 1).sizes.during(part) / kRanks;
    EXPECT_GT(planned.sizes.during(part), slices);
    EXPECT_LE(planned.sizes.during(part), slices + whole * largest);
  }
  // Tied embeddings are whole until the last part.
  const Planned tied(2, true, 1);
  const int64_t embeddings = tied.bytes_with({"model.embeddings."});
  EXPECT_EQ(tied.sizes.during(kLoss), embeddings);
  EXPECT_GE(tied.sizes.during(1), (tied.sizes.whole() - embeddings) / kRanks + embeddings);
}

TEST(GradientSizes, ThoseToBeSummedOverTensorRanksStayWholeToTheEndOfBackward) {
  const std::string norm = "model.norm.";
  const Planned plain(2, false, 1), partial(2, false, 1, norm);
  const int64_t bytes = plain.bytes_with({norm});
  EXPECT_EQ(partial.sizes.during(0), plain.sizes.during(0) + bytes - bytes / kRanks);
  EXPECT_EQ(partial.sizes.at_update(), plain.sizes.at_update());
}

}  // namespace
}  // namespace spanwise::testing
