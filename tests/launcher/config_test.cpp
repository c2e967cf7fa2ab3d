#include "launcher/config/config.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <regex>
#include <sstream>

#include "core/check.h"
#include "core/dispatch.h"
#include "launcher/build_info.h"
#include "launcher/config/derived.h"
#include "launcher/config/text.h"

namespace spanwise {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::util::MessageDifferencer;

constexpr const char* kName = "configs/x.textproto";

/// A config that can run.
const std::string kGood = R"(run { dir: "runs/x" } data { train { path: "runs/data" } })";

/// The lines of the UserError that `action` throws.
template <class Action>
std::vector<std::string> errors(Action action) {
  std::vector<std::string> lines;
  try {
    action();
  } catch (const UserError& error) {
    std::istringstream text(error.what());
    for (std::string line; std::getline(text, line);) lines.push_back(line);
  }
  return lines;
}

std::vector<std::string> parse_errors(const std::string& text,
                                      const std::vector<std::string>& overrides = {}) {
  return errors([&] { parse_config(text, kName, overrides); });
}

/// Problems of kGood with overrides; at world size 1 unless told.
std::vector<std::string> problems(const std::vector<std::string>& overrides, int world_size = 1,
                                  std::optional<int64_t> vocab_size = std::nullopt) {
  return config_problems(parse_config(kGood, kName, overrides), world_size, vocab_size);
}

using Lines = std::vector<std::string>;

/// Every field of a message and the messages inside it, by path.
void all_fields(const Descriptor& message, const std::string& path,
                std::vector<const FieldDescriptor*>& fields, Lines& paths) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    fields.push_back(&field);
    paths.push_back(path + field.name());
    if (field.message_type()) all_fields(*field.message_type(), path + field.name() + ".", fields, paths);
  }
}

TEST(ConfigText, UnknownFieldIsPlacedAndTheNearestNamed) {
  EXPECT_EQ(parse_errors("run { dir: \"a\" }\nmodel {\n  num_layer: 4\n}\n"),
            (Lines{"configs/x.textproto:3:3: model has no field 'num_layer'; did you mean 'num_layers'?"}));
  EXPECT_EQ(parse_errors("trian { steps: 4 }"),
            (Lines{"configs/x.textproto:1:1: the config has no field 'trian'; did you mean 'train'?"}));
  EXPECT_EQ(
      parse_errors("model { attention { num_head: 4 } }"),
      (Lines{
          "configs/x.textproto:1:21: model.attention has no field 'num_head'; did you mean 'num_heads'?"}));
}

TEST(ConfigText, FieldOfAnotherGroupIsPointedTo) {
  EXPECT_EQ(parse_errors("train { warmup_steps: 4 }"),
            (Lines{"configs/x.textproto:1:9: train has no field 'warmup_steps'; "
                   "did you mean 'optimizer.warmup_steps'?"}));
  EXPECT_EQ(parse_errors("model { num_heads: 4 }"),
            (Lines{"configs/x.textproto:1:9: model has no field 'num_heads'; "
                   "did you mean 'model.attention.num_heads' or 'model.linear.num_heads'?"}));
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
      "  linear_mixer: GATED_DELTANET  # comment\n"
      "\thidden_size: 1e3\n"
      "  unheard_of_thing { deep { x: 1 } }\n"
      "}\n"
      "device: TPU\n";
  EXPECT_EQ(
      parse_errors(text, {"train.steps=x", "run.sed=1"}),
      (Lines{"configs/x.textproto:3:3: model has no field 'num_layer'; did you mean 'num_layers'?",
             "configs/x.textproto:4:17: model.linear_mixer has no value 'GATED_DELTANET'; did you mean "
             "'GATED_DELTA_NET'? it is one of LINEAR_ATTENTION, LIGHTNING, RETENTION, MAMBA2, DELTA_NET, "
             "GATED_DELTA_NET",
             "configs/x.textproto:5:22: model.hidden_size takes an integer, got '1e3'",
             "configs/x.textproto:6:3: model has no field 'unheard_of_thing'; it has vocab_size, "
             "hidden_size, num_layers, intermediate_size, hidden_ratio, layer_pattern, linear_mixer, "
             "norm_eps, tie_embeddings, initializer_range, chunk_size, attention, linear",
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
  EXPECT_EQ(errors([&] { load_config(path); }),
            Lines{path + ":1:9: train has no field 'step'; did you mean 'steps'?"});
  EXPECT_EQ(errors([&] { load_config(dir / "none"); }),
            Lines{"cannot read " + (dir / "none").string() + ": No such file or directory; check the path"});
  EXPECT_EQ(
      errors([&] { load_config(dir); }),
      Lines{"cannot read " + dir.string() + ": it is a directory where a file is expected; check the path"});
  const std::string pipe = dir / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(errors([&] { load_config(pipe); }),
            Lines{"cannot read " + pipe + ": it is a named pipe where a file is expected; check the path"});
  std::filesystem::remove_all(dir);
}

TEST(ConfigOverride, SetsEveryKindOfField) {
  const RunConfig config =
      parse_config("train { steps: 5 }", kName,
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
  const RunConfig config = parse_config("model { attention { num_heads: 8 window: 64 } }", kName,
                                        {"model.attention={num_heads: 2 qk_norm: true}"});
  EXPECT_EQ(config.model().attention().num_heads(), 2);
  EXPECT_EQ(config.model().attention().window(), 64);
  EXPECT_TRUE(config.model().attention().qk_norm());
}

TEST(ConfigOverride, OfAListReplacesTheFilesEntriesOnce) {
  const RunConfig config = parse_config(R"(data { train { path: "a" } train { path: "b" } })", kName,
                                        {R"(data.train={path: "c" weight: 2})", R"(data.train={path: "d"})"});
  ASSERT_EQ(config.data().train_size(), 2);
  EXPECT_EQ(config.data().train(0).path(), "c");
  EXPECT_EQ(config.data().train(0).weight(), 2);
  EXPECT_EQ(config.data().train(1).path(), "d");
  // Of names as well, in quotes or not.
  const RunConfig names = parse_config(R"(checkpoint { accept_changed: "a" accept_changed: "b" })", kName,
                                       {"checkpoint.accept_changed=c", "checkpoint.accept_changed='d'"});
  ASSERT_EQ(names.checkpoint().accept_changed_size(), 2);
  EXPECT_EQ(names.checkpoint().accept_changed(0), "c");
  EXPECT_EQ(names.checkpoint().accept_changed(1), "d");
}

TEST(ConfigOverride, WithoutValueGoesBackToTheDefault) {
  const RunConfig config =
      parse_config(R"(train { steps: 5 sample_prompt: "x" } data { train { path: "a" } })", kName,
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

TEST(ConfigValidate, AcceptsTheDefaultsWithDataAndDirectory) {
  EXPECT_EQ(problems({}), Lines{});
}

TEST(ConfigValidate, EveryCrossFieldErrorNamesItsFieldsAndTheWayOut) {
  struct Case {
    Lines overrides;
    std::string message;
    int world_size = 1;
    std::optional<int64_t> vocab_size = std::nullopt;
  };
  const std::vector<Case> cases = {
      {{"run.dir="}, "run.dir is empty; name the run's directory, e.g. run { dir: \"runs/first\" }"},
      {{"data.train="},
       "data.train is empty; name a dataset made by `spanwise data prepare`, "
       "e.g. data { train { path: \"runs/data/train\" } }"},
      {{"data.train={weight: 2}"}, "data.train[0].path is empty; name the dataset without .bin and .idx"},
      {{"data.train={path: \"x\" weight: 0}"}, "data.train[0].weight is 0; it must be above 0 and finite"},
      {{"data.tokenizer.kind=SENTENCEPIECE"},
       "data.tokenizer.model is empty and data.tokenizer.kind is SENTENCEPIECE; name the .model file"},
      {{"device=CUDA", "train.precision=F64"},
       kHasCuda ? "train.precision F64 is for the CPU; set train.precision: F32 or BF16, or device: CPU"
                : "device CUDA is not in this build; set device: CPU or AUTO"},
      {{"device=CPU", "train.precision=BF16"},
       "train.precision BF16 needs a GPU and this run computes on the CPU; set train.precision: F32"},
      {{"train.steps=0"}, "train.steps is 0; it must be at least 1"},
      {{"train.micro_batch=-1"}, "train.micro_batch is -1; it must be at least 1"},
      {{"train.eval_every=5"},
       "train.eval_every is 5 and data.validation is empty; name a held-out dataset or set train.eval_every: "
       "0"},
      {{"train.recompute_mlp_layers=9", "model.num_layers=8"},
       "train.recompute_mlp_layers is 9; it must be from 0 to model.num_layers, 8"},
      {{"train.recompute_mixers=true", "model.layer_pattern=N"},
       "train.recompute_mixers is true and model.layer_pattern 'N' has no linear layer; set it to false"},
      {{"train.recompute_mixers=true", "train.activation_checkpointing=true"},
       "train.activation_checkpointing recomputes whole blocks; leave out train.recompute_mixers and "
       "train.recompute_mlp_layers"},
      {{"parallel.zero_stage=4"}, "parallel.zero_stage is 4; it must be from 0 to 3"},
      {{"parallel.exchange=HEAD_SPLIT", "parallel.sequence=3"},
       "model.linear's value heads (a tensor rank) 4 cannot be divided over parallel.sequence 3; set "
       "parallel.sequence: 2",
       3},
      {{"parallel.attention=ULYSSES", "parallel.sequence=3", "model.attention.num_heads=12",
        "model.attention.num_kv_heads=2", "model.attention.head_dim=64"},
       "model.attention.num_kv_heads (a tensor rank) 2 cannot be divided over parallel.sequence 3; set "
       "parallel.sequence: 2",
       3},
      {{"parallel.attention=ULYSSES", "parallel.sequence=2", "parallel.tensor=2", "train.global_batch=8",
        "model.attention.num_heads=12", "model.attention.num_kv_heads=6", "model.attention.head_dim=64"},
       "model.attention.num_kv_heads (a tensor rank) 3 cannot be divided over parallel.sequence 2; set "
       "parallel.sequence: 1",
       4},
      {{"parallel.data=4"},
       "parallel.data 4 x parallel.sequence 1 x parallel.tensor 1 is not the number of ranks, 2; "
       "start 4 ranks or set parallel.data: 0",
       2},
      {{"train.global_batch=8", "train.micro_batch=3"},
       "train.global_batch 8 is not a multiple of train.micro_batch 3 x 2 data ranks; "
       "set train.global_batch: 12 or train.micro_batch: 2",
       2},
      {{},
       "train.global_batch 8 is not a multiple of train.micro_batch 1 x 3 data ranks; set "
       "train.global_batch: 9",
       3},
      {{"model.num_layers=6"},
       "model.num_layers 6 is not a multiple of the 4 layers of model.layer_pattern \"LLLN\"; set "
       "model.num_layers: 8"},
      {{"model.layer_pattern=LLXN"},
       "model.layer_pattern is \"LLXN\"; it must be letters L (model.linear_mixer) and N (softmax "
       "attention), "
       "e.g. \"LLLN\""},
      {{"model.attention.num_heads=3"},
       "model.hidden_size 256 is not a multiple of model.attention.num_heads 3; change either or set "
       "model.attention.head_dim"},
      {{"model.attention.num_kv_heads=3"},
       "model.attention.num_heads 4 is not a multiple of model.attention.num_kv_heads 3; "
       "set model.attention.num_kv_heads: 2"},
      {{"model.attention.head_dim=33"},
       "model.attention has 33 channels per head and rotary positions need an even number; set "
       "model.attention.head_dim or model.attention.num_heads"},
      {{"model.linear.num_heads=3"},
       "model.hidden_size 256 is not a multiple of model.linear.num_heads 3; change either or set "
       "model.linear.head_dim"},
      {{"model.linear.num_value_heads=6"},
       "model.linear.num_value_heads 6 is not a multiple of model.linear.num_heads 4; set "
       "model.linear.num_value_heads: 8"},
      {{"model.linear.expand_v=0.51"},
       "model.linear.expand_v 0.51 x 64 key channels per head is not a whole number of value channels; set "
       "model.linear.expand_v: 0.515625"},
      {{"model.linear_mixer=RETENTION", "model.linear.head_dim=7"},
       "model.linear has 7 channels per head and rotary positions need an even number; set "
       "model.linear.head_dim or "
       "model.linear.num_heads"},
      {{"model.linear_mixer=MAMBA2", "model.linear.num_heads=3"},
       "model.hidden_size 256 x model.linear.expand 2 is not a multiple of model.linear.num_heads 3; change "
       "one of "
       "them"},
      {{"model.linear_mixer=MAMBA2", "model.linear.num_groups=3"},
       "model.linear.num_heads 4 is not a multiple of model.linear.num_groups 3; set "
       "model.linear.num_groups: 2"},
      {{"model.linear.state_size=64"},
       "model.linear.state_size has no effect: model.linear_mixer GATED_DELTA_NET does not take it (taken by "
       "MAMBA2); "
       "remove it, or add --set model.linear.state_size="},
      {{"model.layer_pattern=L", "model.attention.window=64"},
       "model.attention has no effect: model.layer_pattern has no N layer; remove it, or add --set "
       "model.attention="},
      {{"model.layer_pattern=N", "model.linear.num_heads=8"},
       "model.linear has no effect: model.layer_pattern has no L layer; remove it, or add --set "
       "model.linear="},
      {{"model.intermediate_size=512", "model.hidden_ratio=3"},
       "model.hidden_ratio has no effect: model.intermediate_size gives the size; remove it, or add --set "
       "model.hidden_ratio="},
      {{"model.linear.short_conv=false", "model.linear.conv_size=3"},
       "model.linear.conv_size has no effect: model.linear.short_conv is false; remove it, or add --set "
       "model.linear.conv_size="},
      {{"data.tokenizer.model=x"},
       "data.tokenizer.model has no effect: data.tokenizer.kind is BYTES; remove it, or add --set "
       "data.tokenizer.model="},
      {{"optimizer.decay_steps=5"},
       "optimizer.decay_steps has no effect: optimizer.schedule is COSINE; remove it, or add --set "
       "optimizer.decay_steps="},
      {{"model.vocab_size=100"},
       "model.vocab_size 100 is below the 256 tokens of the tokenizer (data.tokenizer.kind BYTES); set "
       "model.vocab_size: 0 or at least 256",
       1,
       256},
      {{"optimizer.schedule=WSD", "optimizer.warmup_steps=50", "optimizer.decay_steps=60", "train.steps=100"},
       "optimizer.warmup_steps 50 + optimizer.decay_steps 60 is more than the 100 steps of train.steps; "
       "lower them or set optimizer.schedule_steps: 110"},
      {{"optimizer.beta2=1"}, "optimizer.beta2 is 1; it must be from 0 to below 1"},
      {{"optimizer.min_learning_rate_ratio=1.5"},
       "optimizer.min_learning_rate_ratio is 1.5; it must be from 0 to 1"},
      {{"train.steps=1000000001"}, "train.steps is 1000000001; it must be at most 1000000000"},
      {{"model.linear.expand_v=inf"},
       "model.linear.expand_v is inf; it must be above 0 and at most 1000000000"},
      {{"optimizer.learning_rate=nan"}, "optimizer.learning_rate is nan; it must be above 0 and finite"},
      {{"optimizer.clip_norm=-1"}, "optimizer.clip_norm is -1; it must be 0 or above and finite"},
      {{"checkpoint.every=-1"}, "checkpoint.every is -1; it must be at least 0"},
      {{"checkpoint.every_minutes=-5"},
       "checkpoint.every_minutes is -5; it must be 0 (never by time) or above, and finite"},
      {{"checkpoint.every_minutes=nan"},
       "checkpoint.every_minutes is nan; it must be 0 (never by time) or above, and finite"},
      {{"checkpoint.every_minutes=inf"},
       "checkpoint.every_minutes is inf; it must be 0 (never by time) or above, and finite"},
  };
  for (const Case& c : cases) EXPECT_EQ(problems(c.overrides, c.world_size, c.vocab_size), Lines{c.message});
}

TEST(ConfigValidate, ReportsEverythingAtOnce) {
  const RunConfig config =
      parse_config("", kName,
                   {"device=CPU", "train.precision=BF16", "model.num_layers=7", "model.attention.num_heads=5",
                    "model.linear.num_heads=3", "train.global_batch=7", "model.vocab_size=10"});
  const Lines lines = errors([&] { validate(config, 2, 256); });
  ASSERT_EQ(lines.size(), 8u);
  EXPECT_EQ(lines, config_problems(config, 2, 256));
  for (const char* field :
       {"run.dir", "train.precision", "train.global_batch", "model.num_layers", "model.attention.num_heads",
        "model.linear.num_heads", "data.train", "model.vocab_size"}) {
    EXPECT_EQ(
        std::count_if(lines.begin(), lines.end(),
                      [&](const std::string& line) { return line.find(field) != std::string::npos; }) > 0,
        true)
        << field;
  }
}

TEST(ConfigValidate, ValuesOutOfRangeNeverCrash) {
  // Every number of the schema at values that would divide by zero or overflow if used unchecked.
  std::vector<const FieldDescriptor*> fields;
  Lines paths;
  all_fields(*RunConfig::descriptor(), "", fields, paths);
  for (size_t i = 0; i < fields.size(); ++i) {
    if (paths[i].rfind("data.train", 0) == 0 || fields[i]->cpp_type() != FieldDescriptor::CPPTYPE_INT64)
      continue;
    for (const char* mixer : {"GATED_DELTA_NET", "MAMBA2", "RETENTION"}) {
      for (const char* value : {"0", "-1", "-9223372036854775808", "1000000000", "9223372036854775807"}) {
        problems({std::string("model.linear_mixer=") + mixer, paths[i] + "=" + value});
      }
    }
  }
}

TEST(ConfigValidate, EveryMixerRunsWithTheQuickstartsShapes) {
  const std::string path = std::string(SPANWISE_SOURCE_DIR) + "/configs/quickstart.textproto";
  for (const char* mixer :
       {"LINEAR_ATTENTION", "LIGHTNING", "RETENTION", "MAMBA2", "DELTA_NET", "GATED_DELTA_NET"}) {
    const RunConfig config = load_config(path, {std::string("model.linear_mixer=") + mixer, "train.steps=2"});
    for (const int world_size : {1, 2, 4})
      EXPECT_EQ(config_problems(config, world_size, 4096), Lines{}) << mixer;
  }
}

TEST(ConfigUnused, NamesOnlyFieldsOfTheSchema) {
  std::vector<const FieldDescriptor*> fields;
  Lines paths;
  all_fields(*RunConfig::descriptor(), "", fields, paths);
  for (const char* mixer :
       {"LINEAR_ATTENTION", "LIGHTNING", "RETENTION", "MAMBA2", "DELTA_NET", "GATED_DELTA_NET"}) {
    for (const UnusedField& field : unused_fields(parse_config(
             kGood, kName, {std::string("model.linear_mixer=") + mixer, "optimizer.schedule=CONSTANT"}))) {
      EXPECT_NE(std::find(paths.begin(), paths.end(), field.path), paths.end()) << field.path;
    }
  }
}

TEST(ConfigPrint, ReloadsToAnEqualConfigThatPrintsAlikeAndIsValid) {
  for (const Lines& overrides :
       {Lines{}, Lines{"model.linear_mixer=MAMBA2", "optimizer.eps=1.2345678901234567e-9"},
        Lines{"model.layer_pattern=N", "model.num_layers=3", "train.sample_prompt=Caf\xc3\xa9 \"quoted\"\n"},
        Lines{"data.train={path: \"a\"}", "data.train={path: \"b\" weight: 0.1}",
              "optimizer.schedule=WSD"}}) {
    const RunConfig config = parse_config(kGood, kName, overrides);
    const std::string text = print_config(config);
    const RunConfig again = parse_config(text, "printed");
    EXPECT_TRUE(MessageDifferencer::Equivalent(config, again)) << text;
    EXPECT_EQ(print_config(again), text);
    EXPECT_EQ(config_problems(again, 1), Lines{});
  }
}

TEST(ConfigPrint, WritesEveryFieldThatHasAnEffect) {
  const RunConfig config = parse_config(kGood, kName);
  Lines unused;
  for (const UnusedField& field : unused_fields(config)) unused.push_back(field.path);
  const RunConfig printed = parse_config(print_config(config), "printed");
  std::function<void(const google::protobuf::Message&, std::string)> walk = [&](const auto& message,
                                                                                std::string path) {
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor* field = message.GetDescriptor()->field(i);
      const std::string name = path + field->name();
      if (field->is_repeated()) continue;
      const bool is_unused = std::find(unused.begin(), unused.end(), name) != unused.end();
      EXPECT_EQ(message.GetReflection()->HasField(message, field), !is_unused) << name;
      if (field->message_type()) walk(message.GetReflection()->GetMessage(message, field), name + ".");
    }
  };
  walk(printed, "");
  EXPECT_EQ(printed.data().train(0).has_weight(), true);
}

TEST(ConfigHelp, NamesEveryFieldWithDocumentationWithin100Columns) {
  std::vector<const FieldDescriptor*> fields;
  Lines paths;
  all_fields(*RunConfig::descriptor(), "", fields, paths);
  ASSERT_GT(paths.size(), 60u);
  for (size_t i = 0; i < paths.size(); ++i) {
    std::istringstream text(config_help(paths[i]));
    std::string head, doc;
    std::getline(text, head);
    std::getline(text, doc);
    EXPECT_NE(head.find(paths[i]), std::string::npos);
    EXPECT_TRUE(std::regex_match(doc, std::regex(" +\\S.*[.:,a-z]")))
        << paths[i] << " is not documented: " << doc;
    EXPECT_NE(config_help().find(fields[i]->message_type() ? paths[i] + " {" : paths[i] + ":"),
              std::string::npos);
    if (!fields[i]->enum_type()) continue;
    for (std::string line; std::getline(text, line);) {
      EXPECT_TRUE(std::regex_match(line, std::regex("      ([A-Z0-9_]+)? +\\S.*")))
          << paths[i] << ": " << line;
    }
  }
  std::istringstream lines(config_help());
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(ConfigHelp, ShowsTypeDefaultAndChoices) {
  EXPECT_EQ(
      config_help("train.loss_chunk_tokens"),
      "  train.loss_chunk_tokens: integer, default 0\n"
      "      Tokens whose logits exist at a time in the loss; bounds its memory at this many x vocabulary\n"
      "      numbers. 0: 1024 on a CPU, on a GPU as many as have 268 million logits.\n");
  const std::string precision = config_help("train.precision");
  EXPECT_NE(precision.find("train.precision: choice, default F32\n"), std::string::npos);
  EXPECT_NE(precision.find("\n      BF16  bfloat16"), std::string::npos);
  EXPECT_NE(config_help("model.layer_pattern").find("text, default \"LLLN\""), std::string::npos);
  EXPECT_NE(config_help("optimizer.eps").find("number, default 1e-08"), std::string::npos);
  EXPECT_EQ(config_help("train").find("optimizer."), std::string::npos);
}

TEST(ConfigHelp, OfAnUnknownPathSuggests) {
  EXPECT_EQ(errors([] { config_help("train.step"); }),
            Lines{"config help train.step: train has no field 'step'; did you mean 'steps'?"});
  EXPECT_EQ(errors([] { config_help("train.steps.x"); }),
            Lines{"config help train.steps.x: train.steps is a single value and has no fields of its own"});
}

TEST(ConfigDerived, ResolvesWhatZerosStandFor) {
  RunConfig config = parse_config(
      kGood, kName,
      {"train.global_batch=24", "train.micro_batch=2", "train.steps=110", "optimizer.warmup_steps=10"});
  EXPECT_EQ(data_ranks(config.parallel(), 3), 3);
  EXPECT_EQ(accumulation_passes(config, 3), 4);
  EXPECT_EQ(intermediate_size(config.model()), 768);
  EXPECT_EQ(attention_kv_heads(config.model().attention()), 4);
  EXPECT_EQ(attention_head_dim(config.model()), 64);
  EXPECT_EQ(schedule_steps(config), 110);
  EXPECT_EQ(decay_steps(config), 20);
  EXPECT_EQ(checkpoint_dir(config), "runs/x/checkpoints");
  LinearShape shape =
      linear_shape(parse_config("model { linear { num_value_heads: 8 expand_v: 1.5 } }", kName).model());
  EXPECT_EQ(shape.key_heads, 4);
  EXPECT_EQ(shape.value_heads, 8);
  EXPECT_EQ(shape.key_dim, 64);
  EXPECT_EQ(shape.value_dim, 96);
  shape = linear_shape(parse_config("model { linear_mixer: MAMBA2 linear { num_heads: 8 } }", kName).model());
  EXPECT_EQ(shape.key_heads, 1);
  EXPECT_EQ(shape.value_heads, 8);
  EXPECT_EQ(shape.key_dim, 128);
  EXPECT_EQ(shape.value_dim, 64);
}

TEST(BuildInfo, IsACommitOrUnknown) {
  EXPECT_TRUE(std::regex_match(git_hash(), std::regex("unknown|[0-9a-f]{40}(-dirty)?"))) << git_hash();
}

}  // namespace
}  // namespace spanwise
