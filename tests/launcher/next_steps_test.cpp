#include "launcher/next_steps.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "core/check.h"
#include "data/indexed_writer.h"
#include "launcher/config/derived.h"
#include "tests/testing/temp_dir.h"

namespace spanwise {
namespace {

RunConfig config_of(const std::vector<std::string>& settings) {
  return parse_config(R"(run { dir: "runs/a b" } train { steps: 240 } data { train { path: "x" } })", "test",
                      settings);
}

class NextSteps : public testing::Test {
 protected:
  void SetUp() override {
    ::unsetenv("SPANWISE_LAUNCHER");
    ::unsetenv("SLURM_STEP_ID");
  }
};

TEST_F(NextSteps, CommandsAreThoseOfTheCallerWithQuotedWords) {
  const auto commands = next_steps(
      config_of({}), {.program = "/opt/span wise", .last_step = 240, .prompt = "It's", .evaluates = true});
  ASSERT_EQ(commands.size(), 3);
  EXPECT_EQ(commands[0], "'/opt/span wise' generate 'runs/a b' --prompt 'It'\\''s' --tokens 100");
  EXPECT_EQ(commands[1], "'/opt/span wise' eval 'runs/a b'");
}

TEST_F(NextSteps, ADecayedRateIsNotRaised) {
  const auto train = [](const std::vector<std::string>& settings) {
    return next_steps(config_of(settings), {.program = "s", .last_step = 240}).back();
  };
  const std::string longer = "s train 'runs/a b' --set train.steps=480";
  EXPECT_EQ(train({}), longer + " --set optimizer.schedule_steps=240");
  EXPECT_EQ(train({"optimizer.schedule=WSD"}), longer + " --set optimizer.schedule_steps=240");
  EXPECT_EQ(train({"optimizer.schedule=CONSTANT"}), longer);
  EXPECT_EQ(train({"optimizer.schedule_steps=1000"}), longer);
  // At rate 0 nothing would be learned.
  EXPECT_EQ(train({"optimizer.min_learning_rate_ratio=0"}), "s generate 'runs/a b' --tokens 100");
}

TEST_F(NextSteps, SeveralRanksAreStartedAsTheyWere) {
  const auto evaluate = [] {
    return next_steps(config_of({}), {.program = "s", .ranks = 2, .last_step = 1, .evaluates = true})[1];
  };
  EXPECT_EQ(evaluate(), "mpirun -n 2 s eval 'runs/a b'");
  ::setenv("SLURM_STEP_ID", "0", 1);
  EXPECT_EQ(evaluate(), "srun -n 2 s eval 'runs/a b'");
  ::setenv("SPANWISE_LAUNCHER", "launcher/local_mpirun.sh", 1);
  EXPECT_EQ(evaluate(), "launcher/local_mpirun.sh 2 s eval 'runs/a b'");
}

TEST_F(NextSteps, ThePromptIsTheRunsOwnText) {
  const TempDir dir;
  const auto tokenizer = make_byte_tokenizer();
  const auto prompt = [&](const std::string& text, const std::vector<std::string>& more = {}) {
    const std::string prefix = (dir / "text").string();
    IndexedDatasetWriter writer(prefix, 257, Overwrite::kAllow);
    writer.add_document(tokenizer->encode(text));
    writer.finish();
    std::vector<std::string> settings = {"data.validation=" + prefix};
    settings.insert(settings.end(), more.begin(), more.end());
    return prompt_of(config_of(settings), *tokenizer);
  };
  EXPECT_EQ(prompt("\n\n  The café was shut.\nNext line"), "The café was");
  EXPECT_EQ(prompt("The old miller never forgets the young sailor and the queen"),
            "The old miller never forgets the young");
  EXPECT_EQ(prompt(std::string(100, 'x')), "");
  EXPECT_EQ(prompt("\x01\x02 and"), "");
  EXPECT_EQ(prompt("Text", {"train.sample_prompt=Once "}), "Once ");
  // A training that is done does not fail over a prompt.
  EXPECT_EQ(prompt("Text", {"data.validation=moved"}), "");
}

TEST(DerivedValues, SayWhatZeroStandsForAndLeaveOutWhatHasNoEffect) {
  const auto derived = [](const std::vector<std::string>& settings) {
    std::string text;
    for (const DerivedValue& value : derived_values(config_of(settings), 4, 2, 300))
      text += fmt::format("{}: {}\n", value.path, value.value);
    return text;
  };
  const auto contains = [](const std::string& text, const std::string& line) {
    return text.find(line + "\n") != text.npos;
  };
  const std::string text = derived({"parallel.sequence=2", "optimizer.schedule=WSD", "run.seed=7"});
  for (const char* line :
       {"run.data_seed: 7", "parallel.data: 2", "model.vocab_size: 300", "model.intermediate_size: 768",
        "model.layer.N.attention.num_kv_heads: 4", "optimizer.schedule_steps: 240",
        "optimizer.decay_steps: 48", "checkpoint.dir: runs/a b/checkpoints"}) {
    EXPECT_TRUE(contains(text, line)) << line << " is missing in\n" << text;
  }
  const std::string other =
      derived({"model.intermediate_size=512", "run.data_seed=9", "model.layer_pattern=N"});
  for (const char* path :
       {"optimizer.decay_steps", "model.intermediate_size", "run.data_seed", "model.layer.L"}) {
    EXPECT_EQ(other.find(path), other.npos) << other;
  }
}

}  // namespace
}  // namespace spanwise
