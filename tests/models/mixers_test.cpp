// Every mixer, from its table: gradients of all parameters, documents kept apart, generation equal to the
// whole.

#include "models/layer_options.h"

#include <cmath>
#include <set>

#include "parallel/param_store.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kHidden = 12;

// Large weights, so that every path carries a visible gradient.
const SharedOptions kShared{.hidden = kHidden, .norm_eps = 1e-6, .linear = {.init_stddev = 0.4}};
const LayerPlace kPlace{.layer = 1, .num_layers = 3};

MixerSizes small_sizes() {
  return {.attention = {.num_heads = 4,
                        .num_kv_heads = 2,
                        .head_dim = 4,
                        .qk_norm = true,
                        .qkv_bias = true,
                        .output_gate = true},
          .heads = {.num_heads = 2, .num_value_heads = 4, .key_dim = 4, .value_dim = 6},
          .allow_neg_eigval = true};
}

struct MixerCase {
  std::string name;
  MixerOptions options;
  friend void PrintTo(const MixerCase& c, std::ostream* out) { *out << c.name; }
};

std::vector<MixerCase> mixer_cases() {
  std::vector<MixerCase> cases;
  for (const MixerOptions& m : every_mixer(small_sizes())) cases.push_back({std::string(name_of(m)), m});
  MixerSizes window = small_sizes();
  window.attention.window = 3;
  cases.push_back({"attention_window", mixer_named("attention", window)});
  for (const FeatureMap map : {FeatureMap::kElu, FeatureMap::kRelu, FeatureMap::kIdentity}) {
    MixerSizes sizes = small_sizes();
    sizes.feature_map = map;
    cases.push_back(
        {fmt::format("linear_attention_map_{}", int(map)), mixer_named("linear_attention", sizes)});
  }
  MixerSizes plain = small_sizes();
  plain.short_conv = plain.output_gate = plain.allow_neg_eigval = false;
  cases.push_back({"gated_delta_net_plain", mixer_named("gated_delta_net", plain)});
  return cases;
}

// Two rows; documents of 1, 5 and more tokens, none at a multiple of the chunk.
SequenceLayout packed_layout(int64_t length) {
  return SequenceLayout(2, length, {0, 5, 6, length, length + 3});
}

class Mixers : public ::testing::TestWithParam<MixerCase> {
 protected:
  Mixers()
      : mixer_(make_mixer(GetParam().options, kShared, kPlace)),
        params_(test_context(), *mixer_, DType::kF64, 7) {}

  Tensor forward(const Tensor& x, const SequenceLayout& layout, MixerState* state = nullptr) const {
    Tape tape(test_context(), Tape::Mode::kInference);
    return mixer_->forward(tape, Var(x), {.layout = layout, .state = state}).value();
  }

  std::unique_ptr<Mixer> mixer_;
  ParamStore params_;
};

TEST_P(Mixers, GradientsOfInputAndEveryParameterEqualFiniteDifferences) {
  const SequenceLayout layout = packed_layout(11);
  std::vector<Tensor> operands{random_tensor({2, 11, kHidden}, DType::kF64, "x")};
  for (const ParamEntry& entry : params_.entries()) operands.push_back(entry.param->var.value());
  const OpFunction op = [&](Tape& tape, const std::vector<Var>& x) {
    for (size_t i = 0; i < params_.entries().size(); ++i) params_.entries()[i].param->var = x[i + 1];
    return std::vector<Var>{mixer_->forward(tape, x[0], {.layout = layout})};
  };
  check_gradients(op, operands, {.max_elements = 12});
}

TEST_P(Mixers, DocumentsDoNotSeeEachOther) {
  const int64_t length = 11;
  const SequenceLayout layout = packed_layout(length);
  const Tensor x = random_tensor({2, length, kHidden}, DType::kF64, "x");
  const Tensor y = forward(x, layout);
  for (const Segment& changed : layout.segments()) {
    Tensor moved = Tensor::empty(test_context(), x.shape(), DType::kF64);
    moved.copy_from(x);
    const int64_t first = (changed.row * length + changed.begin) * kHidden;
    for (int64_t i = first; i < first + (changed.end - changed.begin) * kHidden; ++i)
      moved.data<double>()[i] += 0.5;
    const Tensor z = forward(moved, layout);
    for (const Segment& other : layout.segments()) {
      const int64_t begin = other.row * length + other.begin, end = other.row * length + other.end;
      const auto rows = [&](const Tensor& t) {
        return t.reshape({2 * length, kHidden}).row_range(begin, end);
      };
      const bool same = other.row == changed.row && other.begin == changed.begin;
      EXPECT_EQ(bool(bitwise_equal(rows(y), rows(z))), !same)
          << "document at row " << other.row << ", token " << other.begin;
    }
  }
}

TEST_P(Mixers, TokensDoNotSeeLaterOnes) {
  const SequenceLayout layout(1, 13);
  const Tensor x = random_tensor({1, 13, kHidden}, DType::kF64, "x");
  const Tensor y = forward(x, layout).reshape({13, kHidden});
  for (const int64_t t : {1, 4, 7, 12}) {
    Tensor moved = Tensor::empty(test_context(), x.shape(), DType::kF64);
    moved.copy_from(x);
    moved.data<double>()[t * kHidden] += 0.5;
    const Tensor z = forward(moved, layout).reshape({13, kHidden});
    EXPECT_TRUE(bitwise_equal(y.row_range(0, t), z.row_range(0, t))) << "token " << t;
    EXPECT_FALSE(bitwise_equal(y.row_range(t, t + 1), z.row_range(t, t + 1))) << "token " << t;
  }
}

TEST_P(Mixers, GeneratingTokenByTokenEqualsTheWhole) {
  const int64_t length = 11, prompt = 4;
  const Tensor x = random_tensor({1, length, kHidden}, DType::kF64, "x");
  const Tensor whole = forward(x, SequenceLayout(1, length)).reshape({length, kHidden});
  MixerState state;
  const auto part = [&](int64_t begin, int64_t end) {
    const Tensor rows = x.reshape({length, kHidden}).row_range(begin, end).reshape({1, end - begin, kHidden});
    return forward(rows, SequenceLayout(1, end - begin, {}, {begin}), &state).reshape({end - begin, kHidden});
  };
  EXPECT_TRUE(near(part(0, prompt), whole.row_range(0, prompt), kTolerance64.value));
  size_t bytes = state.bytes();
  for (int64_t t = prompt; t < length; ++t) {
    EXPECT_TRUE(near(part(t, t + 1), whole.row_range(t, t + 1), kTolerance64.value)) << "token " << t;
    EXPECT_TRUE(is_attention(GetParam().options) || state.bytes() == bytes) << "a linear mixer's state grew";
  }
}

TEST_P(Mixers, GenerationFromNothingEqualsTheWhole) {
  const Tensor x = random_tensor({1, 1, kHidden}, DType::kF64, "x");
  MixerState state;
  EXPECT_TRUE(
      near(forward(x, SequenceLayout(1, 1), &state), forward(x, SequenceLayout(1, 1)), kTolerance64.value));
}

TEST_P(Mixers, SinglePrecisionLiesWithinTheTable) {
  const SequenceLayout layout = packed_layout(11);
  std::vector<Tensor> operands{random_tensor({2, 11, kHidden}, DType::kF64, "x")};
  for (const ParamEntry& entry : params_.entries()) operands.push_back(entry.param->var.value());
  check_fp32(
      [&](Tape& tape, const std::vector<Var>& x) {
        for (size_t i = 0; i < params_.entries().size(); ++i) params_.entries()[i].param->var = x[i + 1];
        return std::vector<Var>{mixer_->forward(tape, x[0], {.layout = layout})};
      },
      operands);
}

INSTANTIATE_TEST_SUITE_P(All, Mixers, ::testing::ValuesIn(mixer_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(MixerParameters, HaveTheNamesOfPublishedCheckpoints) {
  const auto names = [](std::string_view mixer) {
    std::set<std::string> all;
    make_mixer(mixer_named(mixer, small_sizes()), kShared)->visit("", [&](const std::string& name, Param&) {
      all.insert(name);
    });
    return all;
  };
  EXPECT_EQ(names("gated_delta_net"),
            (std::set<std::string>{"q_proj.weight", "k_proj.weight", "v_proj.weight", "q_conv1d.weight",
                                   "k_conv1d.weight", "v_conv1d.weight", "a_proj.weight", "b_proj.weight",
                                   "A_log", "dt_bias", "g_proj.weight", "o_norm.weight", "o_proj.weight"}));
  EXPECT_EQ(names("mamba2"), (std::set<std::string>{"in_proj.weight", "conv1d.weight", "conv1d.bias", "A_log",
                                                    "D", "dt_bias", "norm.weight", "out_proj.weight"}));
  EXPECT_EQ(names("retention"),
            (std::set<std::string>{"q_proj.weight", "k_proj.weight", "v_proj.weight", "g_proj.weight",
                                   "g_norm_swish_gate.weight", "o_proj.weight"}));
}

TEST(Mamba2, NormalisesEachGroupApart) {
  // 4 heads of 6 channels in 2 groups. With the second group's columns of out_proj at zero, the output is the
  // first group's alone, and what the second group's heads do must not reach it through the norm.
  const std::unique_ptr<Mixer> mixer = make_mixer(mixer_named("mamba2", small_sizes()), kShared);
  const ParamStore params(test_context(), *mixer, DType::kF64, 7);
  Tensor skip;
  for (const ParamEntry& entry : params.entries()) {
    const Tensor value = entry.param->var.value();
    if (entry.name == "D") skip = value;
    if (entry.name != "out_proj.weight") continue;
    for (int64_t i = 0; i < value.numel(); ++i) {
      if (i % 24 >= 12) value.data<double>()[i] = 0;
    }
  }
  const Tensor x = random_tensor({1, 9, kHidden}, DType::kF64, "x");
  const SequenceLayout layout(1, 9);
  const auto forward = [&] {
    Tape tape(test_context(), Tape::Mode::kInference);
    return mixer->forward(tape, Var(x), {.layout = layout}).value();
  };
  const Tensor before = forward();
  skip.data<double>()[2] += 1;
  EXPECT_TRUE(bitwise_equal(forward(), before));
  skip.data<double>()[1] += 1;
  EXPECT_FALSE(bitwise_equal(forward(), before));
}

TEST(MixerDecays, FollowTheirPapers) {
  EXPECT_NEAR(Retention::log_decays(2)[0], std::log(1 - 1.0 / 32), 1e-15);
  EXPECT_NEAR(Retention::log_decays(2)[1], std::log(1 - 1.0 / 64), 1e-15);
  // MiniMax: slopes 2^-8(h+1)/H, scaled from 1 + 1e-5 at the first layer to almost 0 at the last.
  EXPECT_NEAR(Lightning::log_decays(2, 0, 2)[0], -std::exp2(-4) * (1 + 1e-5), 1e-12);
  EXPECT_NEAR(Lightning::log_decays(2, 1, 2)[1], -std::exp2(-8) * 2e-5, 1e-9);
}

}  // namespace
}  // namespace spanwise::testing
