// A run directory belongs to one training at a time, and nothing that a training wrote there is lost.

#include <signal.h>
#include <unistd.h>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "parallel/stop_request.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;

class ProgramRunDirectory : public TinyRunTest {
 protected:
  std::unique_ptr<RunningProgram> start(const std::string& run, int ranks,
                                        const std::vector<std::string>& settings = {}) const {
    std::vector<std::string> arguments = {"train", "config.textproto",           "--set", "run.dir=" + run,
                                          "--set", "train.steps=1000000",        "--set", "data.validation=",
                                          "--set", "optimizer.schedule=CONSTANT"};
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    return std::make_unique<RunningProgram>(arguments, ProgramOptions{.ranks = ranks, .directory = path("")});
  }
  /// Exit code other than 0, and all of `parts` in the output.
  void expect_refused(const ProgramResult& result, const std::vector<std::string>& parts) const {
    EXPECT_EQ(result.exit_code, 1) << result.output;
    for (const std::string& part : parts)
      EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
  }
};

TEST_F(ProgramRunDirectory, ASecondTrainingIsRefusedNamingTheFirst) {
  char host[256] = "";
  ::gethostname(host, sizeof(host) - 1);
  for (const int ranks : {0, 2}) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    const std::string run = fmt::format("run_{}", ranks);
    const auto first = start(run, ranks);
    ASSERT_TRUE(first->prints("step 2/")) << first->output();
    expect_refused(spanwise({"train", "config.textproto"}, {"run.dir=" + run}, ranks),
                   {run + " is used by another training: process ", host, "run.dir"});
    // The same checkpoints under another run.
    expect_refused(spanwise({"train", "config.textproto"},
                            {"run.dir=other", fmt::format("checkpoint.dir={}/checkpoints", run)}),
                   {run + "/checkpoints is used by another training", "checkpoint.dir"});
    EXPECT_FALSE(fs::exists(path("other")));
    EXPECT_TRUE(first->running()) << first->output();
    first->signal(0, SIGUSR1);
    EXPECT_EQ(first->wait().exit_code, kExitStopped);
    EXPECT_FALSE(fs::exists(path(run) / "run.lock"));
    EXPECT_FALSE(fs::exists(path(run) / "checkpoints/run.lock"));
    const std::vector<StepRecord> records = read_metrics(path(run));
    for (size_t i = 0; i < records.size(); ++i) EXPECT_EQ(records[i].step, int64_t(i) + 1);
  }
}

TEST_F(ProgramRunDirectory, AKilledTrainingLeavesNoLock) {
  for (const int ranks : {0, 2}) {
    const std::string run = fmt::format("run_{}", ranks);
    const auto first = start(run, ranks);
    ASSERT_TRUE(first->prints("step 2/")) << first->output();
    for (int rank = 0; rank < std::max(ranks, 1); ++rank) first->signal(rank, SIGKILL);
    EXPECT_NE(first->wait().exit_code, 0);
    EXPECT_TRUE(fs::exists(path(run) / "run.lock"));
    train(run, {}, ranks);
    EXPECT_FALSE(fs::exists(path(run) / "run.lock"));
  }
}

TEST_F(ProgramRunDirectory, AStartBeforeTheFirstCheckpointKeepsWhatWasWritten) {
  const auto first = start("run", 0, {"checkpoint.every_minutes=0"});
  ASSERT_TRUE(first->prints("step 9/")) << first->output();
  first->signal(0, SIGKILL);
  first->wait();
  const std::string written = read_file(path("run/metrics.jsonl"));
  const ProgramResult again = train("run", {"train.steps=2"});
  EXPECT_EQ(read_metrics(path("run")).size(), 2);
  EXPECT_EQ(read_file(path("run/metrics.jsonl.after-step_00000000-1")), written);
  EXPECT_NE(again.output.find("metrics.jsonl.after-step_00000000-1"), std::string::npos) << again.output;
}

TEST_F(ProgramRunDirectory, ACheckpointThatHasLostItsManifestIsNotTrainedOver) {
  train("run", {"checkpoint.every=4"});
  fs::remove(checkpoint("run") / "manifest.textproto");
  const auto before = files_below(path("run"));
  for (const char* verb : {"train", "eval", "generate"}) {
    expect_refused(spanwise({verb, "run"}), {"run/checkpoints/step_00000008 has no manifest.textproto"});
    EXPECT_TRUE(files_below(path("run")) == before) << verb;
  }
  fs::rename(path("run/checkpoints/step_00000008"), path("aside"));
  const ProgramResult on = train("run");
  EXPECT_NE(on.output.find("resumed step 4"), std::string::npos) << on.output;
}

}  // namespace
}  // namespace spanwise::testing
