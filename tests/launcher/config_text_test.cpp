// Reading configs: text, files and overrides.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/check.h"
#include "core/dispatch.h"
#include "launcher/words.h"
#include "tests/testing/config_testing.h"

namespace spanwise {
namespace {

using testing::error_lines, testing::kConfigName, testing::Lines, testing::parse_errors;

TEST(ConfigText, UnknownFieldIsPlacedAndTheNearestNamed) {
  EXPECT_EQ(parse_errors("run { dir: \"a\" }\nmodel {\n  num_layer: 4\n}\n"),
            (Lines{"configs/x.textproto:3:3: model has no field 'num_layer'; did you mean 'num_layers'?"}));
  EXPECT_EQ(parse_errors("trian { steps: 4 }"),
            (Lines{"configs/x.textproto:1:1: the config has no field 'trian'; did you mean 'train'?"}));
  EXPECT_EQ(parse_errors("model { layer { attention { num_head: 4 } } }"),
            (Lines{"configs/x.textproto:1:29: model.layer.attention has no field 'num_head'; did you mean "
                   "'num_heads'?"}));
}

TEST(ConfigText, FieldOfAnotherGroupIsPointedTo) {
  EXPECT_EQ(parse_errors("train { warmup_steps: 4 }"),
            (Lines{"configs/x.textproto:1:9: train has no field 'warmup_steps'; "
                   "did you mean 'optimizer.warmup_steps'?"}));
  EXPECT_EQ(parse_errors("model { num_heads: 4 }"),
            (Lines{"configs/x.textproto:1:9: model has no field 'num_heads'; "
                   "did you mean 'num_heads' of a mixer in 'model.layer'?"}));
  EXPECT_EQ(parse_errors("model { window: 4 }"),
            (Lines{"configs/x.textproto:1:9: model has no field 'window'; did you mean "
                   "'model.layer.attention.window'?"}));
}

TEST(ConfigText, FieldLikeNoOtherListsWhatThereIs) {
  EXPECT_EQ(parse_errors("parallel { pipeline: 2 }"),
            (Lines{"configs/x.textproto:1:12: parallel has no field 'pipeline'; it has data, sequence, "
                   "tensor, zero_stage, partition, exchange, attention, ranks_per_node, timeout_seconds, "
                   "shard_norms"}));
}

TEST(ConfigText, WrongValuesSayWhatTheFieldTakes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"train { steps: abc }", "16: train.steps takes an integer, got 'abc'"},
      {"train { steps: 1.5 }", "16: train.steps takes an integer, got '1.5'"},
      {"train { steps: \"5\" }", "16: train.steps takes an integer, got '\"5\"'"},
      {"train { steps: { } }", "16: train.steps takes an integer, got '{'"},
      {"train { steps: }", "16: train.steps takes an integer, got '}'"},
      {"train { steps: 99999999999999999999 }",
       "16: train.steps takes an integer of 64 bits, got 99999999999999999999"},
      {"train { steps: -9223372036854775809 }",
       "16: train.steps takes an integer of 64 bits, got -9223372036854775809"},
      {"run { seed: -1 }", "13: run.seed takes an integer from 0, got '-'"},
      {"run { dir: runs }", "12: run.dir takes a text in quotes, got 'runs'"},
      {"model { tie_embeddings: yes }", "25: model.tie_embeddings takes true or false, got 'yes'"},
      {"optimizer { eps: small }", "18: optimizer.eps takes a number, got 'small'"},
      {"device: GPU", "9: device has no value 'GPU'; did you mean 'CPU'? it is one of AUTO, CPU, CUDA"},
      {"train { precision: fp32 }",
       "20: train.precision has no value 'fp32'; did you mean 'F32'? it is one of F64, F32, BF16"},
      {"train { precision: 1 }", "20: train.precision has no value '1'; it is one of F64, F32, BF16"},
      {"train: 5", "8: train is a group of fields; write train { ... }, got '5'"},
      {"device CPU", "8: device needs ':' before its value, got 'CPU'"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_EQ(parse_errors(text), (Lines{"configs/x.textproto:1:" + message})) << text;
  }
}

TEST(ConfigText, BrokenStructureIsPlaced) {
  EXPECT_EQ(parse_errors("train {\n  steps: 4\n"),
            (Lines{"configs/x.textproto:3:1: expected '}' that closes train of line 1, got the end"}));
  EXPECT_EQ(parse_errors("train { steps: 4 }\n}\n"),
            (Lines{"configs/x.textproto:2:1: expected a field's name, got '}'"}));
  EXPECT_EQ(parse_errors("run { dir: \"a\n}").at(0),
            "configs/x.textproto:1:14: String literals cannot cross line boundaries.");
  EXPECT_EQ(parse_errors("data { train [ { path: \"a\" } { } ] }"),
            (Lines{"configs/x.textproto:1:30: expected ',' or ']' in the list data.train, got '{'"}));
}

TEST(ConfigText, FieldSetTwiceIsRefusedButListsAndGroupsRepeat) {
  EXPECT_EQ(parse_errors("train { steps: 4 }\ntrain { steps: 5 }"),
            (Lines{"configs/x.textproto:2:9: train.steps is already set at line 1; keep one of them"}));
  EXPECT_EQ(parse_errors(R"(train { steps: 4 } train { eval_every: 2 }
                            data { train { path: "a" } train { path: "b" } })"),
            Lines{});
}

TEST(ConfigText, EveryErrorOfFileAndOverridesIsReportedAtOnce) {
  const std::string text =
      "# comment\n"
      "model {\n"
      "  num_layer: [1, {a: 2}]\n"
      "  layer { linear_attention { feature_map: RELO } }  # comment\n"
      "\thidden_size: 1e3\n"
      "  unheard_of_thing { deep { x: 1 } }\n"
      "}\n"
      "device: TPU\n";
  EXPECT_EQ(
      parse_errors(text, {"train.steps=x", "run.sed=1"}),
      (Lines{
          "configs/x.textproto:3:3: model has no field 'num_layer'; did you mean 'num_layers'?",
          "configs/x.textproto:4:43: model.layer.linear_attention.feature_map has no value 'RELO'; did you "
          "mean 'RELU'? it is one of ELEMENTWISE_PRODUCT, ELU, RELU, IDENTITY",
          "configs/x.textproto:5:22: model.hidden_size takes an integer, got '1e3'",
          "configs/x.textproto:6:3: model has no field 'unheard_of_thing'; it has vocab_size, "
          "hidden_size, num_layers, intermediate_size, hidden_ratio, layer_pattern, norm_eps, "
          "tie_embeddings, initializer_range, chunk_size, layer",
          "configs/x.textproto:8:9: device has no value 'TPU'; did you mean 'CPU'? it is one of AUTO, "
          "CPU, CUDA",
          "--set train.steps=x: train.steps takes an integer, got 'x'",
          "--set run.sed=1: run has no field 'sed'; did you mean 'seed'?"}));
}

TEST(ConfigText, EditDistanceCountsEditsAndSwaps) {
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("steps", "steps"), 0);
  EXPECT_EQ(edit_distance("trian", "train"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(ConfigFile, IsReadAndMissingOnesAreNamed) {
  const auto dir = std::filesystem::temp_directory_path() / fmt::format("spanwise_config_test_{}", getpid());
  std::filesystem::create_directory(dir);
  const std::string path = dir / "a.textproto";
  std::ofstream(path) << "train { steps: 7 }";
  EXPECT_EQ(load_config(path).train().steps(), 7);
  std::ofstream(path) << "train { step: 7 }";
  EXPECT_EQ(error_lines([&] { load_config(path); }),
            Lines{path + ":1:9: train has no field 'step'; did you mean 'steps'?"});
  EXPECT_EQ(error_lines([&] { load_config(dir / "none"); }),
            Lines{"cannot read " + (dir / "none").string() + ": No such file or directory; check the path"});
  EXPECT_EQ(
      error_lines([&] { load_config(dir); }),
      Lines{"cannot read " + dir.string() + ": it is a directory where a file is expected; check the path"});
  const std::string pipe = dir / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_lines([&] { load_config(pipe); }),
            Lines{"cannot read " + pipe + ": it is a named pipe where a file is expected; check the path"});
  std::filesystem::remove_all(dir);
}

TEST(ConfigOverride, SetsEveryKindOfField) {
  const RunConfig config =
      parse_config("train { steps: 5 }", kConfigName,
                   {"train.steps=-7", "run.seed=18446744073709551615", "optimizer.eps=1e-5",
                    "optimizer.clip_norm=2", "device=CPU", "model.tie_embeddings=true", "train.precision=F64",
                    "train.sample_prompt=It's a {text} = with anything", R"(run.dir="a\tb")"});
  EXPECT_EQ(config.train().steps(), -7);
  EXPECT_EQ(config.run().seed(), 18446744073709551615u);
  EXPECT_EQ(config.optimizer().eps(), 1e-5);
  EXPECT_EQ(config.optimizer().clip_norm(), 2);
  EXPECT_EQ(config.device(), RunConfig::CPU);
  EXPECT_TRUE(config.model().tie_embeddings());
  EXPECT_EQ(config.train().precision(), config::TrainConfig::F64);
  EXPECT_EQ(config.train().sample_prompt(), "It's a {text} = with anything");
  EXPECT_EQ(config.run().dir(), "a\tb");
}

TEST(ConfigOverride, OfAGroupKeepsItsOtherFields) {
  const RunConfig config = parse_config("train { steps: 8 global_batch: 64 }", kConfigName,
                                        {"train={steps: 2 recompute_mixers: true}"});
  EXPECT_EQ(config.train().steps(), 2);
  EXPECT_EQ(config.train().global_batch(), 64);
  EXPECT_TRUE(config.train().recompute_mixers());
}

TEST(ConfigOverride, OfAListReplacesTheFilesEntriesOnce) {
  const RunConfig config = parse_config(R"(data { train { path: "a" } train { path: "b" } })", kConfigName,
                                        {R"(data.train={path: "c" weight: 2})", R"(data.train={path: "d"})"});
  ASSERT_EQ(config.data().train_size(), 2);
  EXPECT_EQ(config.data().train(0).path(), "c");
  EXPECT_EQ(config.data().train(0).weight(), 2);
  EXPECT_EQ(config.data().train(1).path(), "d");
  // Of names as well, in quotes or not.
  const RunConfig names =
      parse_config(R"(checkpoint { accept_changed: "a" accept_changed: "b" })", kConfigName,
                   {"checkpoint.accept_changed=c", "checkpoint.accept_changed='d'"});
  ASSERT_EQ(names.checkpoint().accept_changed_size(), 2);
  EXPECT_EQ(names.checkpoint().accept_changed(0), "c");
  EXPECT_EQ(names.checkpoint().accept_changed(1), "d");
}

TEST(ConfigOverride, WithoutValueGoesBackToTheDefault) {
  const RunConfig config =
      parse_config(R"(train { steps: 5 sample_prompt: "x" } data { train { path: "a" } })", kConfigName,
                   {"train.steps=", "train.sample_prompt=", "data.train="});
  EXPECT_FALSE(config.train().has_steps());
  EXPECT_EQ(config.train().sample_prompt(), "");
  EXPECT_EQ(config.data().train_size(), 0);
}

TEST(ConfigOverride, ErrorsNameTheOverride) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"train.steps", "an override is path.to.field=value, e.g. train.steps=100"},
      {"=5", "an override is path.to.field=value, e.g. train.steps=100"},
      {"train.step=5", "train has no field 'step'; did you mean 'steps'?"},
      {"trian.steps=5", "the config has no field 'trian'; did you mean 'train'?"},
      {"steps=5", "the config has no field 'steps'; did you mean 'train.steps'?"},
      {"train.steps=5 eval_every: 2", "train.steps takes one value, then comes 'eval_every'"},
      {"train.steps.x=5", "train.steps is a single value and has no fields of its own"},
      {"data.train.path=x", "data.train is a list; add whole entries, --set 'data.train={...}'"},
      {"data.train={pth: \"x\"}", "data.train has no field 'pth'; did you mean 'path'?"},
      {"train=5", "train is a group of fields; write train { ... }, got '5'"},
      {"device=GPU", "device has no value 'GPU'; did you mean 'CPU'? it is one of AUTO, CPU, CUDA"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_EQ(parse_errors("", {text}), (Lines{"--set " + text + ": " + message}));
  }
}

}  // namespace
}  // namespace spanwise
