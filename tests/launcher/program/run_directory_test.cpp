// A run directory belongs to one training at a time, and nothing that a training wrote there is lost.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/open_checkpoint.h"
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
    first->signal_all(SIGKILL);
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

TEST_F(ProgramRunDirectory, AOneOffSettingDoesNotBecomeTheRunsConfig) {
  train("run", {"train.steps=2"});
  const std::string first = read_file(path("run/config.textproto"));
  const ProgramResult second = spanwise({"train", "run"}, {"train.steps=3", "optimizer.clip_norm=2"});
  ASSERT_EQ(second.exit_code, 0) << second.output;
  EXPECT_EQ(read_file(path("run/config.textproto")), first);
  for (const char* part :
       {"train.steps: 2 -> 3", "optimizer.clip_norm: 1 -> 2", "run/starts/", "--save-config"})
    EXPECT_NE(second.output.find(part), std::string::npos) << part << " in " << second.output;
  EXPECT_NE(read_file(path("run/starts/config_step_00000002-1")).find("clip_norm: 2"), std::string::npos);

  const ProgramResult third = spanwise({"train", "run", "--save-config"}, {"train.steps=4"});
  ASSERT_EQ(third.exit_code, 0) << third.output;
  EXPECT_NE(read_file(path("run/config.textproto")).find("steps: 4"), std::string::npos);
  EXPECT_EQ(read_file(path("run/config.textproto.before-step_00000003-1")), first);

  const ProgramResult fourth = spanwise({"train", "run"});
  ASSERT_EQ(fourth.exit_code, 0) << fourth.output;
  EXPECT_EQ(fourth.output.find("differs"), std::string::npos) << fourth.output;
}

TEST_F(ProgramRunDirectory, AnotherCheckpointDirectoryOnceTakesNothingAway) {
  train("run");
  const std::string config = read_file(path("run/config.textproto")),
                    metrics = read_file(path("run/metrics.jsonl"));
  const ProgramResult once = spanwise({"train", "run"}, {"checkpoint.dir=other", "train.steps=2"});
  ASSERT_EQ(once.exit_code, 0) << once.output;
  EXPECT_EQ(read_file(path("run/config.textproto")), config);
  EXPECT_EQ(read_file(path("run/metrics.jsonl.after-step_00000000-1")), metrics);
  const ProgramResult again = spanwise({"train", "run"});
  EXPECT_NE(again.output.find("step 8 is done"), std::string::npos) << again.output;
  EXPECT_NE(again.output.find("ends with step 2"), std::string::npos) << again.output;
}

TEST_F(ProgramRunDirectory, ARunThatHasNotTrainedYetTakesAnotherConfig) {
  const auto first = start("run", 0);
  ASSERT_TRUE(first->prints("step 2/")) << first->output();
  first->signal(0, SIGKILL);
  first->wait();
  train("run", {"model.hidden_size=64"});
  EXPECT_NE(read_file(path("run/config.textproto")).find("hidden_size: 64"), std::string::npos);
  EXPECT_TRUE(fs::exists(path("run/config.textproto.before-step_00000000-1")));
  EXPECT_EQ(spanwise({"eval", "run"}).exit_code, 0);
}

TEST_F(ProgramRunDirectory, MovedOrRemovedWhileTrainingItIsMadeAgain) {
  for (const std::string how : {"move", "remove"}) {
    const auto program = start(how, 2, {"run.log_every=1"});
    ASSERT_TRUE(program->prints("step 3/")) << program->output();
    if (how == "move") fs::rename(path(how), path("elsewhere"));
    std::error_code refilled;  // by the training, meanwhile
    if (how == "remove") fs::remove_all(path(how), refilled);
    EXPECT_TRUE(program->prints("was moved or removed while training")) << program->output();
    EXPECT_TRUE(program->prints("saved " + how)) << program->output();
    program->signal(1, SIGUSR1);
    const ProgramResult result = program->wait();
    EXPECT_EQ(result.exit_code, kExitStopped) << result.output;
    const std::vector<StepRecord> records = read_metrics(path(how));
    for (size_t i = 0; i < records.size(); ++i) EXPECT_EQ(records[i].step, int64_t(i) + 1);
    EXPECT_EQ(read_manifest(checkpoint(how)).step(), int64_t(records.size()));
    EXPECT_EQ(spanwise({"eval", how}, {"data.validation=valid"}).exit_code, 0);
  }
}

TEST_F(ProgramRunDirectory, WhereOneDirectoryWasMovedTheOtherIsNotGivenUp) {
  const auto program = start("run", 2, {"run.log_every=1"});
  ASSERT_TRUE(program->prints("step 3/")) << program->output();
  const auto inode = [&] {
    struct stat file {};
    return ::stat(path("run/run.lock").c_str(), &file) == 0 ? file.st_ino : 0;
  };
  const ino_t held = inode();
  // Keeps the number from a file that is made anew.
  const int open_file = ::open(path("run/run.lock").c_str(), O_RDONLY | O_CLOEXEC);
  fs::rename(path("run/checkpoints"), path("elsewhere"));
  EXPECT_TRUE(program->prints("saved run")) << program->output();
  EXPECT_NE(held, 0);
  EXPECT_EQ(inode(), held);
  EXPECT_TRUE(fs::exists(path("run/checkpoints/run.lock")));
  ::close(open_file);
  program->signal(1, SIGUSR1);
  EXPECT_EQ(program->wait().exit_code, kExitStopped);
}

TEST_F(ProgramRunDirectory, AnotherFileInPlaceOfTheHistoryIsKeptAside) {
  const auto program = start("run", 0);
  ASSERT_TRUE(program->prints("step 3/")) << program->output();
  write_file(path("new"), "mine");
  fs::rename(path("new"), path("run/metrics.jsonl"));
  EXPECT_TRUE(program->prints("is made again with all its records")) << program->output();
  program->signal(0, SIGUSR1);
  program->wait();
  EXPECT_EQ(read_file(path("run/metrics.jsonl.replaced-1")), "mine");
  EXPECT_EQ(read_metrics(path("run"))[0].step, 1);
}

TEST_F(ProgramRunDirectory, AFullDiskThatFsyncReportsDelaysTheHistory) {
  RunningProgram program(
      {"train", "config.textproto", "--set", "checkpoint.every=3", "--set", "data.validation="},
      {.directory = path(""),
       .environment = {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC, "SLOW_FSYNC_OF=/metrics.jsonl",
                       "SLOW_FSYNC_ERROR=28"}});
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("No space left on device"), std::string::npos) << result.output;
  // The last fsync fails as well: what it did not confirm is in the file all the same.
  EXPECT_GE(read_metrics(path("run")).size(), 6);
}

TEST_F(ProgramRunDirectory, AReaderThatGoesAwayDoesNotEndTheRun) {
  for (const char* starter : {"", SPANWISE_SOURCE_DIR "/launcher/local_mpirun.sh 2 "}) {
    const std::string run = *starter ? "mpirun" : "alone";
    const std::string command = fmt::format(
        "cd '{}' && bash -c 'set -o pipefail; {}{} train config.textproto --set run.dir={} --set "
        "train.steps=40 2>&1 | head -n 2 > {}.txt'",
        path("").string(), starter, SPANWISE_PROGRAM, run, run);
    EXPECT_EQ(std::system(command.c_str()), 0);
    EXPECT_EQ(read_metrics(path(run)).size(), 40);
  }
}

TEST_F(ProgramRunDirectory, WhatServesTrainingAloneIsNoErrorElsewhere) {
  train("run");
  for (const char* setting : {"metrics.trace_steps=3", "train.micro_batch=3", "optimizer.decay_steps=5",
                              "checkpoint.keep_last=-1", "parallel.zero_stage=9", "train.steps=0"}) {
    EXPECT_EQ(spanwise({"eval", "run"}, {setting}).exit_code, 0) << setting;
    EXPECT_EQ(spanwise({"generate", "run", "--tokens", "2"}, {setting}).exit_code, 0) << setting;
    EXPECT_EQ(spanwise({"train", "run"}, {setting}).exit_code, 1) << setting;
  }
}

TEST_F(ProgramRunDirectory, ASampleThatFailsIsAWarning) {
  RunningProgram program({"train", "config.textproto", "--set", "train.sample_prompt=the"},
                         {.ranks = 2,
                          .directory = path(""),
                          .environment = {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC, "SLOW_FSYNC_OF=/run/checkpoints",
                                          "SLOW_FSYNC_MS=200"}});
  // The last thing that a save does.
  EXPECT_TRUE(program.prints("/run/checkpoints\n")) << program.output();
  fs::remove(path("run/checkpoints/step_00000008/model.safetensors"));
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("warning: no sample"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("model.safetensors"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace spanwise::testing
