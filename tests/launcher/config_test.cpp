#include "launcher/config/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <regex>

#include "core/check.h"
#include "core/dispatch.h"
#include "launcher/build_info.h"
#include "launcher/config/derived.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"
#include "launcher/config/values.h"
#include "tests/testing/config_testing.h"

namespace spanwise {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

using testing::error_lines, testing::kConfigName, testing::kRunnable, testing::Lines, testing::parse_errors;

/// Problems of kRunnable with overrides; at world size 1 unless told.
std::vector<std::string> problems(const std::vector<std::string>& overrides, int world_size = 1,
                                  std::optional<int64_t> vocab_size = std::nullopt) {
  return config_problems(parse_config(kRunnable, kConfigName, overrides), world_size, vocab_size);
}

/// The names of all mixers.
Lines mixers() {
  Lines names;
  const auto* choice = config::LayerConfig::descriptor()->FindOneofByName("mixer");
  for (int i = 0; i < choice->field_count(); ++i) names.push_back(choice->field(i)->name());
  return names;
}

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
       "train.recompute_mlp_layers is 9; it must be from 0 to the number of layers, 8"},
      {{"train.recompute_mixers=true", "model.layer_pattern=N"},
       "train.recompute_mixers is true and no layer has a linear mixer; set it to false"},
      {{"train.recompute_mixers=true", "train.activation_checkpointing=true"},
       "train.activation_checkpointing recomputes whole blocks; leave out train.recompute_mixers and "
       "train.recompute_mlp_layers"},
      {{"parallel.zero_stage=4"}, "parallel.zero_stage is 4; it must be from 0 to 3"},
      {{"parallel.exchange=HEAD_SPLIT", "parallel.sequence=3"},
       "model.layer.L.gated_delta_net.num_heads (a tensor rank) 4 cannot be divided over parallel.sequence "
       "3; "
       "set parallel.sequence: 2",
       3},
      {{"parallel.attention=ULYSSES", "parallel.sequence=3", "model.layer.N.attention.num_heads=12",
        "model.layer.N.attention.num_kv_heads=2", "model.layer.N.attention.head_dim=64"},
       "model.layer.N.attention.num_kv_heads (a tensor rank) 2 cannot be divided over parallel.sequence 3; "
       "set "
       "parallel.sequence: 2",
       3},
      {{"parallel.attention=ULYSSES", "parallel.sequence=2", "parallel.tensor=2", "train.global_batch=8",
        "model.layer.N.attention.num_heads=12", "model.layer.N.attention.num_kv_heads=6",
        "model.layer.N.attention.head_dim=64"},
       "model.layer.N.attention.num_kv_heads (a tensor rank) 3 cannot be divided over parallel.sequence 2; "
       "set "
       "parallel.sequence: 1",
       4},
      {{"parallel.tensor=8", "model.layer.L={mamba2 {num_heads: 16 num_groups: 16}}",
        "model.layer.N.attention.num_kv_heads=2", "model.layer.N.attention.num_heads=4"},
       "model.layer.N.attention.num_heads 4 cannot be divided over parallel.tensor 8; set parallel.tensor: 4",
       8},
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
       "model.layer_pattern \"LLXN\" has X, which is not defined; add layer { letter: \"X\" ... } to model, "
       "or "
       "take L (Gated DeltaNet) or N (softmax attention)"},
      {{"model.layer_pattern=LL N"},
       "model.layer_pattern is \"LL N\"; it must be letters, A to Z or a to z, e.g. \"LLLN\""},
      {{"model.layer_pattern="
        "\"\""},
       "model.layer_pattern is \"\"; it must be the letters of layers, e.g. \"LLLN\""},
      {{"model.layer.L.gated_delta_net=", "model.layer.L.swiglu=", "model.layer_pattern=LN"},
       "model.layer.L has neither a mixer nor a feed-forward; give it one of them"},
      {{"model.layer={letter: \"L\" swiglu {}}", "model.layer={letter: \"L\" attention {}}"},
       "model.layer defines the letter L twice; keep one of them"},
      {{"model.layer={letter: \"LL\" swiglu {}}"},
       "model.layer has the letter \"LL\"; it must be one letter, A to Z or a to z"},
      {{"model.layer={letter: \"L\" swiglu {}}", "model.layer={attention {}}"},
       "model.layer has 1 entries with a letter and 1 without; give all of them one, for "
       "model.layer_pattern, or "
       "none, which lists the model's layers"},
      {{"model.layer={attention {} swiglu {}}", "model.num_layers=4"},
       "model.num_layers has no effect: model.layer lists the 1 layers; remove it, or add --set "
       "model.num_layers="},
      {{"model.layer={attention {} swiglu {}}", "model.layer_pattern=N"},
       "model.layer_pattern has no effect: model.layer lists the 1 layers; remove it, or add --set "
       "model.layer_pattern="},
      {{"model.layer={gated_delta_net {short_conv: false conv_size: 3}}"},
       "model.layer[0].gated_delta_net.conv_size has no effect: model.layer[0].gated_delta_net.short_conv is "
       "false; "
       "remove it"},
      {{"model.layer.N.attention.num_heads=3"},
       "model.hidden_size 256 is not a multiple of model.layer.N.attention.num_heads 3; change either or set "
       "head_dim"},
      {{"model.layer.N.attention.num_kv_heads=3"},
       "model.layer.N.attention.num_heads 4 is not a multiple of num_kv_heads 3; set num_kv_heads: 2"},
      {{"model.layer.N.attention.head_dim=33"},
       "model.layer.N.attention has 33 channels per head and rotary positions need an even number; set "
       "head_dim or "
       "num_heads"},
      {{"model.layer.L.gated_delta_net.num_heads=3"},
       "model.hidden_size 256 is not a multiple of model.layer.L.gated_delta_net.num_heads 3; change either "
       "or set "
       "head_dim"},
      {{"model.layer.L.gated_delta_net.num_value_heads=6"},
       "model.layer.L.gated_delta_net.num_value_heads 6 is not a multiple of num_heads 4; set "
       "num_value_heads: 8"},
      {{"model.layer.L.gated_delta_net.expand_v=0.51"},
       "model.layer.L.gated_delta_net.expand_v 0.51 x 64 key channels per head is not a whole number of "
       "value "
       "channels; set expand_v: 0.515625"},
      {{"model.layer.L={retention {head_dim: 7}}"},
       "model.layer.L.retention has 7 channels per head and rotary positions need an even number; set "
       "head_dim or "
       "num_heads"},
      {{"model.layer.L={mamba2 {num_heads: 3}}"},
       "model.hidden_size 256 x model.layer.L.mamba2.expand 2 is not a multiple of num_heads 3; change one "
       "of them"},
      {{"model.layer.L={mamba2 {num_groups: 3}}"},
       "model.layer.L.mamba2.num_heads 4 is not a multiple of num_groups 3; set num_groups: 2"},
      {{"model.layer.L={delta_net {conv_size: 5}}"},
       "model.layer.L.delta_net.conv_size is 5; short convolutions of 2, 3 and 4 tokens exist"},
      {{"model.layer_pattern=N", "model.chunk_size=32"},
       "model.chunk_size has no effect: no layer has a linear mixer; remove it, or add --set "
       "model.chunk_size="},
      {{"model.layer.L.swiglu=", "model.layer_pattern=L", "model.intermediate_size=64"},
       "model.intermediate_size has no effect: no layer has swiglu; remove it, or add --set "
       "model.intermediate_size="},
      {{"model.intermediate_size=512", "model.hidden_ratio=3"},
       "model.hidden_ratio has no effect: model.intermediate_size gives the size; remove it, or add --set "
       "model.hidden_ratio="},
      {{"model.layer.L.gated_delta_net.short_conv=false", "model.layer.L.gated_delta_net.conv_size=3"},
       "model.layer.L.gated_delta_net.conv_size has no effect: model.layer.L.gated_delta_net.short_conv is "
       "false; "
       "remove it, or add --set model.layer.L.gated_delta_net.conv_size="},
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
      {{"model.layer.L.gated_delta_net.expand_v=inf"},
       "model.layer.L.gated_delta_net.expand_v is inf; it must be above 0 and at most 1000000000"},
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
  const RunConfig config = parse_config(
      "", kConfigName,
      {"device=CPU", "train.precision=BF16", "model.num_layers=7", "model.layer.N.attention.num_heads=5",
       "model.layer.L.gated_delta_net.num_heads=3", "train.global_batch=7", "model.vocab_size=10"});
  const Lines lines = error_lines([&] { validate(config, 2, 256); });
  ASSERT_EQ(lines.size(), 8u);
  EXPECT_EQ(lines, config_problems(config, 2, 256));
  for (const char* field : {"run.dir", "train.precision", "train.global_batch", "model.num_layers",
                            "model.layer.N.attention.num_heads", "model.layer.L.gated_delta_net.num_heads",
                            "data.train", "model.vocab_size"}) {
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
  const auto try_values = [&](const std::string& path, const Lines& first) {
    for (const char* value : {"0", "-1", "-9223372036854775808", "1000000000", "9223372036854775807"}) {
      Lines overrides = first;
      overrides.push_back(path + "=" + value);
      problems(overrides);
      overrides.push_back("device=CUDA");
      problems(overrides);
    }
  };
  int in_layers = 0;
  for (size_t i = 0; i < fields.size(); ++i) {
    if (paths[i].rfind("data.train", 0) == 0 || fields[i]->cpp_type() != FieldDescriptor::CPPTYPE_INT64)
      continue;
    if (paths[i].rfind("model.layer.", 0) != 0) {
      for (const Lines& layer :
           {Lines{}, Lines{"model.layer.L={mamba2 {}}"}, Lines{"model.layer.L={retention {}}"}})
        try_values(paths[i], layer);
      continue;
    }
    ++in_layers;
    const std::string rest = paths[i].substr(std::string("model.layer.").size());
    try_values("model.layer.L." + rest, {"model.layer.L={" + rest.substr(0, rest.find('.')) + " {}}"});
  }
  EXPECT_GT(in_layers, 20);
}

TEST(ConfigValidate, EveryMixerRunsWithTheQuickstartsShapes) {
  const std::string path = std::string(SPANWISE_SOURCE_DIR) + "/configs/quickstart.textproto";
  for (const std::string& mixer : mixers()) {
    const RunConfig config = load_config(path, {"model.layer.L={" + mixer + " {}}", "train.steps=2"});
    EXPECT_NE(mixer_row(*find_layer(config.model(), "L")), nullptr) << mixer;
    for (const int world_size : {1, 2, 4})
      EXPECT_EQ(config_problems(config, world_size, 4096), Lines{}) << mixer;
  }
}

TEST(ConfigUnused, NamesOnlyFieldsOfTheSchema) {
  std::vector<const FieldDescriptor*> fields;
  Lines paths;
  all_fields(*RunConfig::descriptor(), "", fields, paths);
  for (const char* layer : {"gated_delta_net {short_conv: false}", "attention {}", "swiglu {}"}) {
    for (UnusedField& field :
         unused_fields(parse_config(kRunnable, kConfigName,
                                    {"model.layer_pattern=L", fmt::format("model.layer.L={{{}}}", layer),
                                     "optimizer.schedule=CONSTANT"}))) {
      field.path = std::regex_replace(field.path, std::regex("model\\.layer\\.L"), "model.layer");
      EXPECT_NE(std::find(paths.begin(), paths.end(), field.path), paths.end()) << field.path;
    }
  }
}

/// With the layers that have a place, defaults included.
std::map<std::string, std::string> values_of(RunConfig config) {
  *config.mutable_model() = with_used_layers(config.model());
  std::map<std::string, std::string> values;
  for (const ConfigValue& value : config_values(config)) values[value.path] = value.text;
  return values;
}

TEST(ConfigPrint, ReloadsToAnEqualConfigThatPrintsAlikeAndIsValid) {
  for (const Lines& overrides :
       {Lines{}, Lines{"model.layer.L={mamba2 {}}", "optimizer.eps=1.2345678901234567e-9"},
        Lines{"model.layer_pattern=MLM", "model.num_layers=6", "model.layer.M={mamba2 {num_heads: 8}}"},
        Lines{"model.layer={lightning {} swiglu {}}", "model.layer={swiglu {}}"},
        Lines{"model.layer_pattern=N", "model.num_layers=3", "train.sample_prompt=Caf\xc3\xa9 \"quoted\"\n"},
        Lines{"data.train={path: \"a\"}", "data.train={path: \"b\" weight: 0.1}",
              "optimizer.schedule=WSD"}}) {
    const RunConfig config = parse_config(kRunnable, kConfigName, overrides);
    const std::string text = print_config(config);
    const RunConfig again = parse_config(text, "printed");
    EXPECT_EQ(values_of(config), values_of(again)) << text;
    EXPECT_EQ(print_config(again), text);
    EXPECT_EQ(config_problems(again, 1), Lines{});
  }
}

TEST(ConfigPrint, WritesEveryFieldThatHasAnEffect) {
  const RunConfig config = parse_config(kRunnable, kConfigName);
  Lines unused;
  for (const UnusedField& field : unused_fields(config)) unused.push_back(field.path);
  const RunConfig printed = parse_config(print_config(config), "printed");
  std::function<void(const google::protobuf::Message&, std::string)> walk = [&](const auto& message,
                                                                                std::string path) {
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor* field = message.GetDescriptor()->field(i);
      const std::string name = path + field->name();
      if (field->is_repeated()) continue;
      if (field->real_containing_oneof() && !message.GetReflection()->HasField(message, field)) continue;
      const bool is_unused = std::find(unused.begin(), unused.end(), name) != unused.end();
      EXPECT_EQ(message.GetReflection()->HasField(message, field), !is_unused) << name;
      if (field->message_type()) walk(message.GetReflection()->GetMessage(message, field), name + ".");
    }
  };
  walk(printed, "");
  EXPECT_EQ(printed.data().train(0).has_weight(), true);
  ASSERT_EQ(printed.model().layer_size(), 2) << "L and N are written out";
  for (const config::LayerConfig& layer : printed.model().layer())
    walk(layer, "model.layer." + layer.letter() + ".");
}

TEST(ConfigHelp, NamesEveryFieldWithDocumentationWithin100Columns) {
  std::vector<const FieldDescriptor*> fields;
  Lines paths;
  all_fields(*RunConfig::descriptor(), "", fields, paths);
  ASSERT_GT(paths.size(), 60u);
  for (size_t i = 0; i < paths.size(); ++i) {
    // Fields of layers have a letter in their paths.
    const std::string path = std::regex_replace(paths[i], std::regex("model\\.layer\\."), "model.layer.L."),
                      shown =
                          std::regex_replace(paths[i], std::regex("model\\.layer\\."), "model.layer.LETTER.");
    std::istringstream text(config_help(path));
    std::string head, doc;
    std::getline(text, head);
    std::getline(text, doc);
    EXPECT_NE(head.find(path), std::string::npos);
    EXPECT_TRUE(std::regex_match(doc, std::regex(" +\\S.*[.:,a-z{}]")))
        << paths[i] << " is not documented: " << doc;
    EXPECT_NE(config_help().find(fields[i]->message_type() ? shown + " {" : shown + ":"), std::string::npos);
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
  const std::string layer = config_help("model.layer");
  EXPECT_NE(layer.find("  mixer: none or one of attention, gated_delta_net, "), std::string::npos) << layer;
  EXPECT_NE(layer.find("\nmodel.layer.LETTER.mamba2 { ... }\n"), std::string::npos) << layer;
}

TEST(ConfigHelp, OfAnUnknownPathSuggests) {
  EXPECT_EQ(error_lines([] { config_help("train.step"); }),
            Lines{"config help train.step: train has no field 'step'; did you mean 'steps'?"});
  EXPECT_EQ(error_lines([] { config_help("train.steps.x"); }),
            Lines{"config help train.steps.x: train.steps is a single value and has no fields of its own"});
}

TEST(ConfigDerived, ResolvesWhatZerosStandFor) {
  RunConfig config = parse_config(
      kRunnable, kConfigName,
      {"train.global_batch=24", "train.micro_batch=2", "train.steps=110", "optimizer.warmup_steps=10"});
  EXPECT_EQ(data_ranks(config.parallel(), 3), 3);
  EXPECT_EQ(accumulation_passes(config, 3), 4);
  EXPECT_EQ(intermediate_size(config.model()), 768);
  EXPECT_EQ(schedule_steps(config), 110);
  EXPECT_EQ(decay_steps(config), 20);
  EXPECT_EQ(checkpoint_dir(config), "runs/x/checkpoints");
  const auto heads = [](const std::string& layer) {
    const auto model = parse_config("model { layer { " + layer + " } }", kConfigName).model();
    const MixerHeads all = mixer_row(model.layer(0))->heads(model, model.layer(0));
    return fmt::format("{}: {} x {}, {}: {} x {}", all.keys.field, all.keys.count, all.keys.channels,
                       all.values.field, all.values.count, all.values.channels);
  };
  EXPECT_EQ(heads("attention {}"), "num_kv_heads: 4 x 64, num_heads: 4 x 64");
  EXPECT_EQ(heads("gated_delta_net { num_value_heads: 8 expand_v: 1.5 }"),
            "num_heads: 4 x 64, num_value_heads: 8 x 96");
  EXPECT_EQ(heads("lightning { num_heads: 8 }"), "num_heads: 8 x 32, num_heads: 8 x 32");
  EXPECT_EQ(heads("mamba2 { num_heads: 8 }"), "num_groups: 1 x 128, num_heads: 8 x 64");
}

TEST(BuildInfo, IsACommitOrUnknown) {
  EXPECT_TRUE(std::regex_match(git_hash(), std::regex("unknown|[0-9a-f]{40}(-dirty)?"))) << git_hash();
}

}  // namespace
}  // namespace spanwise
