// A run that was cut short and went on equals one that was not.

#include <cerrno>
#include <cmath>
#include <string_view>
#include <thread>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

class ProgramResume : public TinyRunTest {
 protected:
  /// Weights, moments, data cursor, schedule and checksums.
  void expect_equal_checkpoints(const std::string& expected, const std::string& actual) {
    for (const char* name : {"model.safetensors", "optimizer.safetensors", "manifest.textproto"}) {
      EXPECT_TRUE(read_file(checkpoint(actual) / name) == read_file(checkpoint(expected) / name)) << name;
    }
    EXPECT_EQ(read_metrics(path(actual)), read_metrics(path(expected)));
  }

  /// Starts an endless run, and kills a rank some steps after a checkpoint. Returns the newest checkpoint's
  /// step.
  int64_t train_until_killed(const std::string& run, const std::vector<std::string>& settings, int ranks) {
    std::vector<std::string> arguments = {"train", path("config.textproto").string()};
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    for (const char* setting : {"train.steps=1000000", "checkpoint.every=10"}) {
      arguments.insert(arguments.end(), {"--set", setting});
    }
    arguments.insert(arguments.end(), {"--set", "run.dir=" + run});
    RunningProgram program(arguments, {.ranks = ranks, .directory = path("")});
    while (program.running() && !newest_checkpoint(path(run) / "checkpoints")) wait_a_little();
    const size_t steps = read_metrics(path(run)).size();
    while (program.running() && read_metrics(path(run)).size() < steps + 3) wait_a_little();
    program.kill_one_rank();
    const ProgramResult result = program.wait();
    EXPECT_NE(result.exit_code, 0) << result.output;
    EXPECT_FALSE(result.timed_out);
    EXPECT_EQ(result.left_behind, 0);
    return read_manifest(checkpoint(run)).step();
  }

 private:
  static void wait_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }
};

TEST_F(ProgramResume, FourAndFourStepsEqualEightByteForByte) {
  for (const int ranks : {0, 2}) {
    for (const char* precision : {"F32", "F64"}) {
      SCOPED_TRACE(fmt::format("{} ranks, {}", ranks, precision));
      const std::vector<std::string> eight = {fmt::format("train.precision={}", precision)};
      std::vector<std::string> four = eight;
      four.push_back("train.steps=4");
      const std::string whole = fmt::format("whole_{}_{}", ranks, precision);
      const std::string cut = fmt::format("cut_{}_{}", ranks, precision);
      train(whole, eight, ranks);
      train(cut, four, ranks);
      const ProgramResult second = train(cut, eight, ranks);
      EXPECT_NE(second.output.find("resumed step 4"), std::string::npos) << second.output;
      expect_equal_checkpoints(whole, cut);
    }
  }
}

TEST_F(ProgramResume, KilledRunGoesOnFromItsCheckpointAsIfNothingHadHappened) {
  // The rates do not depend on where the run is stopped.
  const std::vector<std::string> settings = {"optimizer.schedule=CONSTANT", "data.validation="};
  for (const int ranks : {0, 2}) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    const std::string whole = fmt::format("whole_{}", ranks), killed = fmt::format("killed_{}", ranks);
    const int64_t step = train_until_killed(killed, settings, ranks);
    ASSERT_GT(step, 0);
    std::vector<std::string> on = settings;
    on.push_back(fmt::format("train.steps={}", step + 5));
    train(killed, on, ranks);
    train(whole, on, ranks);
    expect_equal_checkpoints(whole, killed);
    EXPECT_EQ(read_metrics(path(killed)).size(), step + 5);
  }
}

TEST_F(ProgramResume, KilledWhileFilesAreWrittenBesideTrainingItGoesOnFromTheCheckpointBefore) {
  const std::vector<std::string> settings = {"optimizer.schedule=CONSTANT", "data.validation="};
  for (const auto& [ranks, writers] : {std::pair{0, "ONE"}, {2, "ONE"}, {2, "ALL"}}) {
    SCOPED_TRACE(fmt::format("{} ranks, {}", ranks, writers));
    const std::string whole = fmt::format("whole_{}_{}", ranks, writers),
                      killed = fmt::format("killed_{}_{}", ranks, writers);
    std::vector<std::string> to_eight = settings;
    to_eight.push_back(fmt::format("checkpoint.writers={}", writers));
    std::vector<std::string> arguments = {"train", "config.textproto", "--set", "run.dir=" + killed};
    for (const std::string& setting : to_eight) arguments.insert(arguments.end(), {"--set", setting});
    arguments.insert(arguments.end(), {"--set", "checkpoint.every=2"});
    {
      RunningProgram program(
          arguments, {.ranks = ranks,
                      .directory = path(""),
                      .environment = {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC, "SLOW_FSYNC_OF=.tmp-step_00000004",
                                      "SLOW_FSYNC_MS=30000"}});
      ASSERT_TRUE(program.prints("slow fsync of")) << program.output();
      ASSERT_TRUE(program.prints("step 5/8")) << "training waits for the disk: " << program.output();
      program.kill_one_rank();
      EXPECT_NE(program.wait().exit_code, 0);
    }
    EXPECT_EQ(read_manifest(checkpoint(killed)).step(), 2);
    train(killed, to_eight, ranks);
    train(whole, to_eight, ranks);
    for (const auto& [file, content] : files_below(checkpoint(whole)))
      EXPECT_TRUE(read_file(checkpoint(killed) / std::filesystem::path(file).filename()) == content) << file;
    EXPECT_EQ(read_metrics(path(killed)), read_metrics(path(whole)));
  }
}

TEST_F(ProgramResume, ADiskThatIsFullStopsNoTrainingAndTakesNoCheckpoint) {
  for (const auto& [ranks, writers] : {std::pair{0, "ONE"}, {2, "ALL"}}) {
    SCOPED_TRACE(fmt::format("{} ranks, {}", ranks, writers));
    const std::string run = fmt::format("full_{}", ranks);
    train(run, {"train.steps=3"}, ranks);
    const auto before = files_below(path(run) / "checkpoints");
    RunningProgram program(
        {"train", "config.textproto", "--set", "run.dir=" + run, "--set", "checkpoint.every=2", "--set",
         "optimizer.schedule_steps=8", "--set", fmt::format("checkpoint.writers={}", writers)},
        {.ranks = ranks,
         .directory = path(""),
         .environment = {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC, "SLOW_FSYNC_OF=.tmp-step_",
                         fmt::format("SLOW_FSYNC_ERROR={}", ENOSPC)}});
    const ProgramResult result = program.wait();
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_NE(result.output.find("no checkpoint at step 6; training goes on."), std::string::npos)
        << result.output;
    const size_t error = result.output.find("spanwise: error: ");
    ASSERT_NE(error, std::string::npos) << result.output;
    EXPECT_NE(result.output.find("No space left on device", error), std::string::npos) << result.output;
    EXPECT_EQ(files_below(path(run) / "checkpoints"), before);
    EXPECT_EQ(read_metrics(path(run)).back().step, 8);
  }
}

TEST_F(ProgramResume, MetricsCountHowLongTrainingWaitsForASave) {
  RunningProgram program({"train", "config.textproto", "--set", "run.dir=run", "--set", "checkpoint.every=2"},
                         {.directory = path(""),
                          .environment = {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC,
                                          "SLOW_FSYNC_OF=.tmp-step_00000002", "SLOW_FSYNC_MS=1000"}});
  const ProgramResult result = program.wait();
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const std::string metrics = read_file(path("run/metrics.jsonl"));
  const auto wait_of_step = [&](int step) {
    const size_t line = metrics.find(fmt::format("{{\"step\":{},", step)), end = metrics.find('\n', line);
    constexpr std::string_view kKey = "\"checkpoint/wait_ms\":";
    const size_t at = metrics.find(kKey, line);
    return at < end ? std::stod(metrics.substr(at + kKey.size())) : 0.0;
  };
  EXPECT_EQ(wait_of_step(2), 0);
  EXPECT_LT(wait_of_step(3), 1000) << "the copy alone";
  EXPECT_GT(wait_of_step(5), 1000) << "the save of step 4 waits for that of step 2";
}

TEST_F(ProgramResume, AnotherRankCountGoesOnWithTheSameNumbers) {
  train("whole");
  train("moved", {"train.steps=3"}, 2);
  train("moved", {"train.steps=5"}, 4);
  train("moved", {"train.steps=8", "train.micro_batch=2"});
  const std::vector<StepRecord> whole = read_metrics(path("whole")), moved = read_metrics(path("moved"));
  ASSERT_EQ(whole.size(), 8);
  ASSERT_EQ(moved.size(), 8);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(moved[i].step, whole[i].step);
    EXPECT_EQ(moved[i].lr, whole[i].lr);
    EXPECT_NEAR(moved[i].loss, whole[i].loss, 1e-10 * whole[i].loss);
    EXPECT_NEAR(moved[i].grad_norm, whole[i].grad_norm, 1e-10 * whole[i].grad_norm);
  }
}

TEST_F(ProgramResume, AnotherMeshGoesOnWithTheSameNumbers) {
  struct Mesh {
    const char* name;
    int ranks;
    std::vector<std::string> settings;
  };
  const std::vector<Mesh> meshes = {
      {"one_rank", 0, {}},
      {"tensor", 2, {"parallel.tensor=2"}},
      {"zigzag", 4, {"parallel.sequence=4", "parallel.partition=ZIGZAG"}},
      {"data_sequence",
       4,
       {"parallel.data=2", "parallel.sequence=2", "parallel.zero_stage=2", "parallel.exchange=CHAIN"}},
      {"all_axes",
       8,
       {"parallel.data=2", "parallel.sequence=2", "parallel.tensor=2", "parallel.zero_stage=3",
        "parallel.attention=RING"}},
  };
  train("whole");
  const std::vector<StepRecord> whole = read_metrics(path("whole"));
  ASSERT_EQ(whole.size(), 8);
  for (const Mesh& first : meshes) {
    if (first.ranks == 0) continue;
    std::vector<std::string> settings = first.settings;
    settings.push_back("train.steps=4");
    train(first.name, settings, first.ranks);
    for (const Mesh& second : meshes) {
      if (&second == &first) continue;
      SCOPED_TRACE(fmt::format("saved by {}, went on as {}", first.name, second.name));
      const std::string run = fmt::format("{}_{}", first.name, second.name);
      std::filesystem::copy(path(first.name), path(run), std::filesystem::copy_options::recursive);
      const ProgramResult result = train(run, second.settings, second.ranks);
      EXPECT_NE(result.output.find("resumed step 4"), std::string::npos) << result.output;
      const std::vector<StepRecord> moved = read_metrics(path(run));
      ASSERT_EQ(moved.size(), whole.size());
      for (size_t i = 0; i < whole.size(); ++i) {
        EXPECT_EQ(moved[i].lr, whole[i].lr);
        EXPECT_NEAR(moved[i].loss, whole[i].loss, 1e-10 * whole[i].loss) << "step " << i + 1;
        EXPECT_NEAR(moved[i].grad_norm, whole[i].grad_norm, 1e-10 * whole[i].grad_norm) << "step " << i + 1;
      }
    }
  }
}

TEST_F(ProgramResume, ShardsOfSeveralWritersAndWholeFilesAreReadByAnyLayout) {
  struct Layout {
    int ranks;
    std::vector<std::string> settings;
  };
  const std::vector<Layout> layouts = {{2, {"parallel.zero_stage=1"}},
                                       {4, {"parallel.tensor=2", "parallel.zero_stage=3"}}};
  for (const Layout& layout : layouts) {
    SCOPED_TRACE(fmt::format("{} ranks", layout.ranks));
    const std::string whole = fmt::format("whole_{}", layout.ranks),
                      cut = fmt::format("cut_{}", layout.ranks);
    std::vector<std::string> eight = layout.settings, four = layout.settings;
    eight.push_back("checkpoint.writers=ONE");
    four.insert(four.end(), {"checkpoint.writers=ALL", "train.steps=4"});
    train(whole, eight, layout.ranks);
    train(cut, four, layout.ranks);
    EXPECT_TRUE(std::filesystem::exists(checkpoint(cut) / "optimizer-00002-of-00002.safetensors"));
    EXPECT_FALSE(std::filesystem::exists(checkpoint(cut) / "model.safetensors"));
    const ProgramResult generated = spanwise({"generate", cut, "--tokens", "3"});  // one rank
    EXPECT_EQ(generated.exit_code, 0) << generated.output;
    train(cut, eight, layout.ranks);
    expect_equal_checkpoints(whole, cut);
  }
}

TEST_F(ProgramResume, FinishedRunTrainsNothingAndChangesNoCheckpoint) {
  train("run");
  const auto before = files_below(path("run/checkpoints"));
  const ProgramResult again = train("run");
  EXPECT_NE(again.output.find("Nothing to train"), std::string::npos) << again.output;
  EXPECT_EQ(files_below(path("run/checkpoints")), before);
  EXPECT_EQ(read_metrics(path("run")).size(), 8);
}

TEST_F(ProgramResume, OnlyTheNewestCheckpointsAreKept) {
  train("run", {"checkpoint.every=1", "checkpoint.keep_last=3"});
  std::vector<int64_t> steps;
  for (const CheckpointEntry& entry : list_checkpoints(path("run/checkpoints"))) steps.push_back(entry.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{6, 7, 8}));
}

TEST_F(ProgramResume, ActivationCheckpointingGivesTheSameBytesForEveryMixer) {
  for (const MixerCase& mixer : mixer_cases()) {
    SCOPED_TRACE(mixer.name);
    const std::string kept = fmt::format("{}_kept", mixer.name), again = fmt::format("{}_again", mixer.name);
    std::vector<std::string> settings = mixer.settings;
    settings.push_back("train.precision=F32");
    train(kept, settings);
    settings.push_back("train.activation_checkpointing=true");
    train(again, settings);
    expect_equal_checkpoints(kept, again);
  }
}

}  // namespace
}  // namespace spanwise::testing
