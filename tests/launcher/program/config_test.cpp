// Configs as users handle them: printed, reloaded, saved with the run.

#include "core/check.h"
#include "core/file_io.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

class ProgramConfig : public TinyRunTest {
 protected:
  std::string model_of(const std::string& run) { return read_file(checkpoint(run) / "model.safetensors"); }
};

TEST_F(ProgramConfig, PrintedConfigTrainsTheSame) {
  const ProgramResult printed = spanwise({"config", "print", "config.textproto"}, {"train.micro_batch=2"});
  ASSERT_EQ(printed.exit_code, 0) << printed.output;
  write_file(path("printed.textproto"), printed.output);
  EXPECT_EQ(spanwise({"config", "print", "printed.textproto"}).output, printed.output);

  train("original", {"train.micro_batch=2"});
  const ProgramResult again = spanwise({"train", "printed.textproto"}, {"run.dir=again"});
  ASSERT_EQ(again.exit_code, 0) << again.output;
  EXPECT_TRUE(model_of("again") == model_of("original"));
  EXPECT_EQ(read_metrics(path("again")), read_metrics(path("original")));
}

TEST_F(ProgramConfig, RunKeepsItsResolvedConfigAndCommit) {
  train("run", {"model.layer.L={lightning {num_heads: 2}}"});
  const std::string saved = read_file(path("run/config.textproto"));
  EXPECT_NE(saved.find("lightning"), std::string::npos) << saved;
  EXPECT_NE(saved.find("commit"), std::string::npos) << saved;
  // The overrides of the training run are in it: without them the model would not fit.
  for (const char* where : {"run", "run/config.textproto"}) {
    const ProgramResult evaluated = spanwise({"eval", where});
    EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
    const ProgramResult generated = spanwise({"generate", where, "--tokens", "3"});
    EXPECT_EQ(generated.exit_code, 0) << generated.output;
  }
}

TEST_F(ProgramConfig, TrainGoesOnWithARunDirectory) {
  train("whole", {"model.layer.L={lightning {num_heads: 2}}"});
  train("cut", {"model.layer.L={lightning {num_heads: 2}}", "train.steps=4"});
  const ProgramResult second = spanwise({"train", "cut"}, {"train.steps=8"});
  ASSERT_EQ(second.exit_code, 0) << second.output;
  EXPECT_TRUE(model_of("cut") == model_of("whole"));
}

TEST_F(ProgramConfig, CopiedRunDirectoryIsARunOfItsOwn) {
  train("first", {"train.steps=4"});
  std::filesystem::copy(path("first"), path("second"), std::filesystem::copy_options::recursive);
  ASSERT_EQ(spanwise({"train", "second"}, {"train.steps=8"}).exit_code, 0);
  EXPECT_EQ(read_metrics(path("first")).size(), 4);
  EXPECT_EQ(read_metrics(path("second")).size(), 8);
  EXPECT_NE(spanwise({"eval", "second"}).output.find("second/checkpoints/step_00000008"), std::string::npos);
}

TEST_F(ProgramConfig, HelpComesFromTheSchemaOnceWhateverTheRanks) {
  const ProgramResult help = spanwise({"config", "help", "train.steps"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_NE(help.output.find("Optimizer steps of the whole run"), std::string::npos) << help.output;
  EXPECT_EQ(spanwise({"config", "help", "train.steps"}, {}, 2).output, help.output);
  for (const char* verb : {"train", "eval", "generate", "data", "checkpoint", "config"}) {
    const ProgramResult usage = spanwise({verb, "--help"});
    EXPECT_EQ(usage.exit_code, 0) << usage.output;
    EXPECT_NE(usage.output.find(fmt::format("spanwise {}", verb)), std::string::npos) << usage.output;
  }
  EXPECT_EQ(spanwise({"generate", "--help"}, {}, 2).output, spanwise({"generate", "--help"}).output);
}

TEST_F(ProgramConfig, CheckpointInspectShowsStepAndTensors) {
  train("run");
  const ProgramResult shown =
      spanwise({"checkpoint", "inspect", "run/checkpoints/step_00000008", "--tensors"});
  EXPECT_EQ(shown.exit_code, 0) << shown.output;
  EXPECT_NE(shown.output.find("step: 8"), std::string::npos) << shown.output;
  EXPECT_NE(shown.output.find("model.embeddings.weight"), std::string::npos) << shown.output;
}

}  // namespace
}  // namespace spanwise::testing
