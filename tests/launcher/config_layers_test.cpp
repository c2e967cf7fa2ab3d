// Layers: letters and lists, their overrides, and what L and N are without a definition.

#include <gtest/gtest.h>

#include "core/check.h"
#include "launcher/config/config.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"
#include "launcher/config/values.h"
#include "launcher/objects.h"
#include "parallel/mesh.h"
#include "tests/testing/config_testing.h"

namespace spanwise {
namespace {

using testing::error_lines, testing::kRunnable, testing::Lines;

RunConfig parse(const Lines& overrides, const std::string& model = "") {
  return parse_config(kRunnable + "model { " + model + " }", "x.textproto", overrides);
}

/// What `--set override` says instead of being applied.
Lines refused(const std::string& override, const std::string& model = "") {
  Lines lines = error_lines([&] { parse({override}, model); });
  const std::string head = "--set " + override + ": ";
  for (std::string& line : lines) {
    EXPECT_EQ(line.substr(0, head.size()), head);
    line = line.substr(std::min(head.size(), line.size()));
  }
  return lines;
}

/// "gated_delta_net+swiglu" for each layer of the model.
std::string depth(const RunConfig& config) {
  std::string text;
  for (const config::LayerConfig* layer : layers_in_depth(config.model()))
    text += (text.empty() ? "" : " ") + mixer_name(*layer) + "+" + feed_forward_name(*layer);
  return text;
}

std::vector<LayerOptions> options(const RunConfig& config) {
  const std::unique_ptr<Comm> self = make_self_comm();
  return language_model_options(config, 256, Mesh(*self, {})).layers;
}

TEST(ConfigLayers, LAndNAreThereWithoutADefinition) {
  EXPECT_EQ(depth(parse({"model.num_layers=4"})),
            "gated_delta_net+swiglu gated_delta_net+swiglu gated_delta_net+swiglu attention+swiglu");
}

TEST(ConfigLayers, APatternOfAnyLettersRepeatsOverTheDepth) {
  const RunConfig config = parse({}, R"(num_layers: 6 layer_pattern: "MFN"
                   layer { letter: "M" mamba2 { num_heads: 8 } } layer { letter: "F" swiglu {} })");
  EXPECT_EQ(depth(config),
            "mamba2+none none+swiglu attention+swiglu mamba2+none none+swiglu attention+swiglu");
  EXPECT_EQ(config_problems(config, 1, 256), Lines{});
  EXPECT_EQ(config_warnings(config), Lines{});
  const std::vector<LayerOptions> layers = options(config);
  ASSERT_EQ(layers.size(), 6u);
  EXPECT_EQ(std::get<Mamba2Options>(layers[3].mixer).num_heads, 8);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(layers[3].feed_forward));
  EXPECT_TRUE(std::holds_alternative<std::monostate>(layers[1].mixer));
}

TEST(ConfigLayers, WithoutLettersTheyAreTheModelsLayersInOrder) {
  const RunConfig config = parse({}, R"(layer { lightning {} swiglu {} } layer { attention { window: 8 } }
                                        layer { attention {} swiglu {} })");
  EXPECT_EQ(depth(config), "lightning+swiglu attention+none attention+swiglu");
  EXPECT_EQ(config_problems(config, 1, 256), Lines{});
  EXPECT_EQ(std::get<AttentionOptions>(options(config)[1].mixer).window, 8);
  EXPECT_EQ(std::get<AttentionOptions>(options(config)[2].mixer).window, 0);
}

TEST(ConfigLayers, EveryMixerAndFeedForwardIsMadeUnderItsName) {
  const config::LayerConfig standard;
  const auto& reflection = *standard.GetReflection();
  for (int i = 0; i < 2; ++i) {
    const auto* choice = standard.GetDescriptor()->oneof_decl(i);
    for (int j = 0; j < choice->field_count(); ++j) {
      const RunConfig config = parse({}, fmt::format("layer {{ {} {{}} }}", choice->field(j)->name()));
      EXPECT_EQ(config_problems(config, 1, 256), Lines{});
      const LayerOptions made = options(config).at(0);
      EXPECT_EQ(choice->name() == "mixer" ? name_of(made.mixer) : name_of(made.feed_forward),
                choice->field(j)->name());
    }
  }
  EXPECT_EQ(reflection.GetOneofFieldDescriptor(standard, standard.GetDescriptor()->oneof_decl(0)), nullptr);
}

TEST(ConfigLayers, OneMixerALayer) {
  EXPECT_EQ(
      error_lines(
          [] { parse_config("model {\n layer {\n  attention {}\n  mamba2 {}\n }\n}", "x.textproto"); }),
      Lines{"x.textproto:4:3: model.layer has one mixer and it is attention, at line 3; keep one of them"});
  // Each layer has its own, and groups may be given in parts.
  EXPECT_EQ(
      depth(parse({}, "layer { attention { window: 4 } attention { num_heads: 2 } } layer { mamba2 {} }")),
      "attention+none mamba2+none");
}

TEST(ConfigOverride, SetsALayerByItsLetter) {
  const RunConfig config =
      parse({"model.layer.L.gated_delta_net.num_heads=8", "model.layer.N.attention.window=64",
             "model.layer.N={attention {qk_norm: true}}"});
  EXPECT_EQ(find_layer(config.model(), "L")->gated_delta_net().num_heads(), 8);
  const config::LayerConfig& softmax = *find_layer(config.model(), "N");
  EXPECT_EQ(softmax.attention().window(), 64) << "the same mixer is merged";
  EXPECT_TRUE(softmax.attention().qk_norm());
  EXPECT_TRUE(softmax.has_swiglu());
}

TEST(ConfigOverride, OfALayerWithAnotherMixerReplacesItWhole) {
  const std::string model = R"(layer { letter: "L" gated_delta_net { num_heads: 8 } swiglu {} })";
  const RunConfig config = parse({"model.layer.L={mamba2 {state_size: 64}}"}, model);
  EXPECT_EQ(depth(config).substr(0, 13), "mamba2+swiglu") << "the feed-forward stays";
  EXPECT_EQ(find_layer(config.model(), "L")->mamba2().num_heads(), 4);
  const RunConfig back = parse({"model.layer.L={mamba2 {}}", "model.layer.L={gated_delta_net {}}"}, model);
  EXPECT_EQ(find_layer(back.model(), "L")->gated_delta_net().num_heads(), 4);
}

TEST(ConfigOverride, WithoutValueALayerIsTheDefaultAndAPartIsTakenAway) {
  const std::string model = R"(layer { letter: "L" mamba2 {} } layer { letter: "M" retention {} })";
  EXPECT_EQ(depth(parse({"model.layer.L=", "model.layer_pattern=L", "model.num_layers=1"}, model)),
            "gated_delta_net+swiglu");
  EXPECT_EQ(depth(parse({"model.layer.N.swiglu=", "model.layer_pattern=N", "model.num_layers=1"}, model)),
            "attention+none");
  EXPECT_EQ(config_problems(parse({"model.layer.M=", "model.layer_pattern=M"}, model), 1).size(), 1u);
}

TEST(ConfigOverride, DefinesLetters) {
  const RunConfig config = parse({"model.layer_pattern=ML", "model.layer.M={retention {} swiglu {}}",
                                  "model.layer.M.retention.expand_v=2"});
  EXPECT_EQ(config_problems(config, 1, 256), Lines{});
  EXPECT_EQ(find_layer(config.model(), "M")->retention().expand_v(), 2);
}

TEST(ConfigOverride, ThatLeadsNowhereInALayerSaysWhatIsThere) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"model.layer.L.delta_net.num_heads=8",
       "model.layer.L's mixer is gated_delta_net; --set 'model.layer.L={delta_net {...}}' replaces it"},
      {"model.layer.L.delta_net={num_heads: 8}",
       "model.layer.L's mixer is gated_delta_net; --set 'model.layer.L={delta_net {...}}' replaces it"},
      {"model.layer.L.gated_delta_net.num_head=8",
       "model.layer.L.gated_delta_net has no field 'num_head'; did you mean 'num_heads'?"},
      {"model.layer.L.gated_delta=8",
       "model.layer.L has no field 'gated_delta'; did you mean 'gated_delta_net'?"},
      {"model.layer.L={gated_delta_net {num_head: 8}}",
       "model.layer.L.gated_delta_net has no field 'num_head'; did you mean 'num_heads'?"},
      {"model.layer.L={attention {} mamba2 {}}",
       "model.layer.L has one mixer and it is attention, at line 1; keep one of them"},
      {"model.layer.L={letter: \"M\" attention {}}",
       "the path says L and the value letter: \"M\"; leave the second out"},
      {"model.layer.L=8", "model.layer.L is a group of fields; write L { ... }, got '8'"},
      {"model.layer.M.mamba2.num_heads=8",
       "model.layer.M is not defined; --set 'model.layer.M={...}' defines it"},
      {"model.layer.gated_delta_net.num_heads=8",
       "a layer is named by its letter, as in model.layer.L.gated_delta_net.num_heads"},
      {"model.layer.7=", "a layer is named by its letter, as in model.layer.L"},
      {"model.linear_mixer=MAMBA2",
       "model has no field 'linear_mixer' any more; model.layer says what layers are made of: see `spanwise "
       "config "
       "help model.layer`"},
  };
  for (const auto& [override, sentence] : cases) EXPECT_EQ(refused(override), Lines{sentence});
  EXPECT_EQ(refused("model.layer.F.swiglu=", "layer { letter: \"F\" attention {} } layer_pattern: \"F\""),
            Lines{"model.layer.F has no feed_forward; --set 'model.layer.F={swiglu {...}}' gives it one"});
  EXPECT_EQ(
      refused("model.layer.L.attention.window=8", "layer { attention {} }"),
      Lines{
          "model.layer lists the layers, which have no letters; give them letters, and model.layer_pattern"});
}

TEST(ConfigOverride, ThatFailsLeavesNoLayerBehind) {
  EXPECT_EQ(error_lines([] {
              parse({"model.layer.L.gated_delta_net.num_heads=x", "run.sed=1"});
            }).size(),
            2u);
}

// So that a grid over patterns runs from one file.
TEST(ConfigLayers, ALetterWithoutAPlaceIsAWarningFromAFileAndAnErrorFromAnOverride) {
  const std::string model = R"(layer { letter: "M" mamba2 {} swiglu {} } layer_pattern: "LM")";
  EXPECT_EQ(config_warnings(parse({}, model)), Lines{});
  const RunConfig config = parse({"model.layer_pattern=L"}, model);
  EXPECT_EQ(config_warnings(config),
            Lines{"model.layer.M has no effect: model.layer_pattern \"L\" has no M"});
  EXPECT_EQ(config_problems(config, 1, 256), Lines{});
  EXPECT_EQ(print_config(config).find("mamba2"), std::string::npos);
  const std::string unplaced = "model.layer_pattern \"LLLN\" has no M; place it there, or leave this out";
  EXPECT_EQ(refused("model.layer.M={mamba2 {}}"), Lines{unplaced});
  EXPECT_EQ(
      error_lines([&] {
        parse({"model.layer_pattern=L", "model.layer.M.mamba2.num_heads=8"}, model);
      }),
      Lines{"--set model.layer.M.mamba2.num_heads=8: model.layer_pattern \"L\" has no M; place it there, or "
            "leave this out"});
}

TEST(ConfigValues, NameLayersByTheirLettersAndWhatIsChosen) {
  std::map<std::string, std::string> values;
  for (const ConfigValue& value :
       config_values(parse({}, R"(layer { letter: "L" mamba2 { num_heads: 8 } })").model(), "model"))
    values[value.path] = value.text;
  EXPECT_EQ(values["model.layer's number of entries"], "1");
  EXPECT_EQ(values["model.layer.L.mixer"], "mamba2");
  EXPECT_EQ(values["model.layer.L.feed_forward"], "none");
  EXPECT_EQ(values["model.layer.L.mamba2.num_heads"], "8");
  EXPECT_EQ(values["model.layer.L.mamba2.expand"], "2");
  EXPECT_EQ(values.count("model.layer.L.attention.num_heads"), 0u);
}

}  // namespace
}  // namespace spanwise
