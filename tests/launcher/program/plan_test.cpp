// What `plan` says without running is what a run does.

#include <charconv>

#include "core/check.h"
#include "core/file_io.h"
#include "data/tokenizer.h"
#include "launcher/config.h"
#include "launcher/plan.h"
#include "models/hf/safetensors.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;

using Fields = std::map<std::string, int64_t>;

/// The numbers of one line of metrics.jsonl whose name begins with `prefix`.
Fields fields_of(std::string_view line, const std::string& prefix) {
  Fields fields;
  const std::string quoted = "\"" + prefix;
  for (size_t at = 0; (at = line.find(quoted, at)) != line.npos;) {
    const size_t end = line.find("\":", at + 1);
    double value = 0;
    std::from_chars(line.data() + end + 2, line.data() + line.size(), value);
    fields[std::string(line.substr(at + 1, end - at - 1))] = int64_t(value);
    at = end;
  }
  return fields;
}

std::vector<std::string> lines_of(const fs::path& run) {
  const std::string content = read_file(run / "metrics.jsonl");
  std::vector<std::string> lines;
  for (size_t begin = 0, end = 0; (end = content.find('\n', begin)) != content.npos; begin = end + 1)
    lines.push_back(content.substr(begin, end - begin));
  return lines;
}

struct PlanCase {
  const char* name;
  int ranks;
  std::vector<std::string> settings;
};

class ProgramPlan : public TinyRunTest {
 protected:
  /// One document of training data, as plans assume.
  void SetUp() override {
    TinyRunTest::SetUp();
    const ProgramResult result =
        spanwise({"data", "prepare", "--output", "whole", "--threads", "1", "text.txt"});
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }

  std::vector<std::string> settings_of(const PlanCase& c) const {
    std::vector<std::string> settings = {"train.steps=2", "data.train={path: 'whole'}", "data.validation="};
    settings.insert(settings.end(), c.settings.begin(), c.settings.end());
    return settings;
  }

  RankPlan plan(const PlanCase& c, int rank) const {
    const RunConfig config = load_config(path("config.textproto").string(), settings_of(c));
    validate(config, c.ranks);
    return plan_rank(config, make_byte_tokenizer()->vocab_size(), c.ranks, rank);
  }

  void run_case(const PlanCase& c) {
    train(c.name, settings_of(c), c.ranks == 1 ? 0 : c.ranks);
    lines_ = lines_of(path(c.name));
    ASSERT_EQ(lines_.size(), 2);
  }

  void expect_planned_traffic(const PlanCase& c) {
    SCOPED_TRACE(c.name);
    run_case(c);
    Fields planned, measured = fields_of(lines_[1], "bytes/");
    const Fields first = fields_of(lines_[0], "bytes/");
    for (auto& [name, bytes] : measured) bytes -= first.count(name) ? first.at(name) : 0;
    for (const PlannedTraffic& t : plan(c, 0).traffic)
      planned[fmt::format("bytes/{}/{}", t.axis, t.name)] = t.received_bytes;
    const auto is_zero = [](const auto& field) { return field.second == 0; };
    std::erase_if(planned, is_zero);
    std::erase_if(measured, is_zero);
    EXPECT_FALSE(measured.empty());
    EXPECT_EQ(planned, measured);
  }

  std::vector<std::string> lines_;
};

TEST_F(ProgramPlan, CollectiveBytesOfAStepEqualThoseOfARun) {
  const std::vector<std::string> sequence = {"parallel.sequence=2"}, tensor = {"parallel.tensor=2"};
  const auto with = [](std::vector<std::string> settings, const std::string& more) {
    settings.push_back(more);
    return settings;
  };
  for (const PlanCase& c : {
           PlanCase{"data", 2, {}},
           {"accumulation", 2, {"train.micro_batch=1", "parallel.zero_stage=3"}},
           {"sequence", 2, sequence},
           {"zigzag", 2, with(sequence, "parallel.partition=ZIGZAG")},
           {"chain", 2, with(sequence, "parallel.exchange=CHAIN")},
           {"zigzag_chain",
            2,
            {"parallel.sequence=2", "parallel.partition=ZIGZAG", "parallel.exchange=CHAIN"}},
           {"head_split", 2, with(sequence, "parallel.exchange=HEAD_SPLIT")},
           {"two_level",
            4,
            {"parallel.sequence=4", "parallel.exchange=TWO_LEVEL", "parallel.ranks_per_node=2"}},
           {"ring", 2, with(sequence, "parallel.attention=RING")},
           {"ulysses", 2, with(sequence, "parallel.attention=ULYSSES")},
           {"window", 2, with(sequence, "model.attention.window=5")},
           {"tensor", 2, tensor},
           {"tensor_shared",
            2,
            {"parallel.tensor=2", "model.attention.num_kv_heads=1", "train.precision=F32",
             "train.activation_checkpointing=true", "train.loss_chunk_tokens=24"}},
           {"tensor_sequence", 4, {"parallel.tensor=2", "parallel.sequence=2"}},
           {"sharded_norms", 2, with(tensor, "parallel.shard_norms=true")},
           // 9 tokens a rank: not all tensor ranks have rows without padding.
           {"sharded_norms_uneven",
            4,
            {"parallel.tensor=2", "parallel.sequence=2", "parallel.shard_norms=true", "train.micro_batch=1",
             "train.sequence_length=17", "train.activation_checkpointing=true"}},
           {"zero1", 4, with(sequence, "parallel.zero_stage=1")},
           {"zero2", 4, with(sequence, "parallel.zero_stage=2")},
           {"zero3", 2, {"parallel.zero_stage=3", "model.tie_embeddings=true"}},
       }) {
    expect_planned_traffic(c);
  }
}

TEST_F(ProgramPlan, CollectiveBytesOfEveryMixerEqualThoseOfARun) {
  for (const MixerCase& mixer : mixer_cases()) {
    const std::string name = fmt::format("{}_4", mixer.name);
    std::vector<std::string> settings = mixer.settings;
    settings.insert(settings.end(), {"parallel.sequence=2", "parallel.tensor=2"});
    expect_planned_traffic({name.c_str(), 4, settings});
  }
}

TEST_F(ProgramPlan, ParametersAndOptimizerAreThoseOfTheCheckpoint) {
  const PlanCase c{"one", 1, {}};
  run_case(c);
  const RankPlan planned = plan(c, 0);
  int64_t parameters = 0, moments = 0;
  const SafetensorsReader model(checkpoint("one") / "model.safetensors");
  for (const SafetensorsInfo& tensor : model.tensors()) parameters += int64_t(tensor.bytes);
  const SafetensorsReader optimizer(checkpoint("one") / "optimizer.safetensors");
  for (const SafetensorsInfo& tensor : optimizer.tensors()) moments += int64_t(tensor.bytes);
  EXPECT_EQ(planned.num_parameters * 8, parameters);
  EXPECT_EQ(2 * parameters, moments);
  // Parameters begin at multiples of 16 elements.
  const int64_t padding = planned.memory.parameters - parameters;
  EXPECT_GE(padding, 0);
  EXPECT_LT(padding, 100 * 16 * 8);
  EXPECT_EQ(planned.memory.gradients, planned.memory.parameters);
  EXPECT_EQ(planned.memory.optimizer, 2 * planned.memory.parameters);
}

TEST_F(ProgramPlan, ActivationsOfAHybridAreWithinATenthOfThoseMeasured) {
  for (const char* checkpointing : {"false", "true"}) {
    for (const PlanCase& c : {
             PlanCase{"gated_delta", 1, {}},
             {"wide_vocabulary", 1, {"model.vocab_size=3000", "train.loss_chunk_tokens=64"}},
             {"all_options",
              1,
              {"model.attention={num_heads: 4 num_kv_heads: 2 qk_norm: true output_gate: true}",
               "model.linear.num_value_heads=4", "train.precision=F32"}},
             {"delta", 1, {"model.linear_mixer=DELTA_NET", "model.linear.output_gate=false"}},
             {"linear_attention", 1, {"model.linear_mixer=LINEAR_ATTENTION"}},
             {"elu", 1, {"model.linear_mixer=LINEAR_ATTENTION", "model.linear.feature_map=ELU"}},
             {"lightning", 1, {"model.linear_mixer=LIGHTNING"}},
             {"retention", 1, {"model.linear_mixer=RETENTION", "train.precision=F32"}},
             {"mamba2", 1, {"model.linear_mixer=MAMBA2", "model.linear.state_size=16"}},
             {"tensor", 2, {"parallel.tensor=2"}},
             {"tensor_vocabulary",
              2,
              {"parallel.tensor=2", "model.vocab_size=3000", "train.loss_chunk_tokens=64"}},
             {"tensor_linear_attention", 2, {"parallel.tensor=2", "model.linear_mixer=LINEAR_ATTENTION"}},
             {"tensor_lightning", 2, {"parallel.tensor=2", "model.linear_mixer=LIGHTNING"}},
             {"tensor_retention", 2, {"parallel.tensor=2", "model.linear_mixer=RETENTION"}},
             {"tensor_mamba2",
              2,
              {"parallel.tensor=2", "model.linear_mixer=MAMBA2", "model.linear.state_size=16"}},
             {"sharded_norms", 2, {"parallel.tensor=2", "parallel.shard_norms=true"}},
             {"sharded_norms_mamba2",
              2,
              {"parallel.tensor=2", "parallel.shard_norms=true", "model.linear_mixer=MAMBA2",
               "model.linear.state_size=16"}},
             {"sharded_norms_four",
              4,
              {"parallel.tensor=4", "parallel.shard_norms=true", "model.attention.num_heads=4",
               "model.linear.num_heads=4"}},
             {"sharded_norms_sequence",
              4,
              {"parallel.tensor=2", "parallel.sequence=2", "parallel.shard_norms=true"}},
             {"sequence", 2, {"parallel.sequence=2"}},
             {"zigzag", 2, {"parallel.sequence=2", "parallel.partition=ZIGZAG"}},
             {"sequence_delta", 2, {"parallel.sequence=2", "model.linear_mixer=DELTA_NET"}},
             {"sequence_linear_attention", 2, {"parallel.sequence=2", "model.linear_mixer=LINEAR_ATTENTION"}},
             {"sequence_lightning", 2, {"parallel.sequence=2", "model.linear_mixer=LIGHTNING"}},
             {"sequence_retention", 2, {"parallel.sequence=2", "model.linear_mixer=RETENTION"}},
             {"sequence_mamba2",
              2,
              {"parallel.sequence=2", "model.linear_mixer=MAMBA2", "model.linear.state_size=16"}},
             {"tensor_sequence", 4, {"parallel.tensor=2", "parallel.sequence=2"}},
         }) {
      PlanCase larger = c;
      const std::string name = fmt::format("{}_{}", c.name, checkpointing);
      larger.name = name.c_str();
      for (const char* setting :
           {"train.sequence_length=256", "model.hidden_size=64", "model.intermediate_size=160",
            "train.micro_batch=2", "model.chunk_size=32"}) {
        larger.settings.push_back(setting);
      }
      larger.settings.push_back(fmt::format("train.activation_checkpointing={}", checkpointing));
      SCOPED_TRACE(name);
      run_case(larger);
      const RankPlan planned = plan(larger, 0);
      const double measured =
          double(fields_of(lines_[1], "memory_bytes").at("memory_bytes") - planned.memory.total());
      ASSERT_TRUE(planned.activation_bytes);
      EXPECT_NEAR(double(*planned.activation_bytes), measured, 0.1 * measured);
    }
  }
}

TEST_F(ProgramPlan, ActivationsOfUncountedExchangesHaveNoNumber) {
  const auto is_planned = [&](std::vector<std::string> settings) {
    settings.push_back("parallel.sequence=2");
    return plan({"", 2, settings}, 0).activation_bytes.has_value();
  };
  EXPECT_TRUE(is_planned({}));
  EXPECT_TRUE(is_planned({"parallel.exchange=ALL_GATHER"}));
  for (const char* setting :
       {"parallel.exchange=CHAIN", "parallel.exchange=HEAD_SPLIT", "parallel.attention=RING",
        "parallel.attention=ULYSSES", "model.attention.window=5"}) {
    EXPECT_FALSE(is_planned({setting})) << setting;
  }
  // AUTO divides the heads of large states.
  EXPECT_FALSE(is_planned({"model.linear.head_dim=1024"}));
}

TEST_F(ProgramPlan, MemoryOfZeroStagesIsDividedAsTheirNumbersSay) {
  const auto memory = [&](int stage) {
    return plan({"", 4, {fmt::format("parallel.zero_stage={}", stage)}}, 0).memory;
  };
  EXPECT_EQ(memory(1).parameters, memory(0).parameters);
  EXPECT_EQ(memory(1).gradients, memory(0).gradients);
  EXPECT_EQ(memory(1).optimizer * 4, memory(0).optimizer);
  EXPECT_EQ(memory(2).parameters, memory(0).parameters);
  EXPECT_EQ(memory(2).gradients * 4, memory(0).gradients);
  EXPECT_LT(memory(3).parameters, memory(0).parameters / 3);
  EXPECT_EQ(memory(3).optimizer, 2 * memory(3).parameters);
}

TEST_F(ProgramPlan, VerbPlansFiveHundredRanksOnOneAndWritesNothing) {
  const auto before = files_below(path(""));
  const ProgramResult result = spanwise({"plan", "config.textproto", "--ranks", "512", "--rank", "511"},
                                        {"parallel.sequence=64", "parallel.tensor=2", "train.global_batch=4",
                                         "train.sequence_length=1024", "parallel.zero_stage=2"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  for (const char* part : {"data 4 x sequence 64 x tensor 2", "optimizer", "state_forward", "param_gather",
                           "Most of any rank"}) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
  }
  EXPECT_TRUE(files_below(path("")) == before);
}

}  // namespace
}  // namespace spanwise::testing
