// A run that is asked to end saves its work, whichever rank hears the signal and whatever it does at the
// time, and goes on as if nothing had happened.

#include <signal.h>

#include <chrono>
#include <thread>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "parallel/stop_request.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

const std::vector<std::string> kEndless = {"train.steps=1000000", "optimizer.schedule=CONSTANT",
                                           "data.validation=", "run.log_every=1"};

std::vector<std::string> with(std::vector<std::string> settings, const std::vector<std::string>& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

/// When a signal is sent: as soon as the output holds `text`.
struct Moment {
  const char* name;
  const char* text;
  std::vector<std::string> settings;
  std::vector<std::string> environment = {};
};

class ProgramSignals : public TinyRunTest {
 protected:
  /// Starts a training, and sends `number` to `rank` at the moment. With `twice` the seconds are those since
  /// the second signal.
  ProgramResult signal_at(const Moment& moment, int ranks, int rank, int number, const std::string& run,
                          bool twice = false) const {
    std::vector<std::string> arguments = {"train", "config.textproto", "--set", "run.dir=" + run};
    for (const std::string& setting : moment.settings) arguments.insert(arguments.end(), {"--set", setting});
    RunningProgram program(arguments,
                           {.ranks = ranks, .directory = path(""), .environment = moment.environment});
    EXPECT_TRUE(program.prints(moment.text)) << program.output();
    program.signal(rank, number);
    // Long enough for a busy machine to deliver the first one: two that wait together arrive as one.
    if (twice) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    const auto second = std::chrono::steady_clock::now();
    if (twice) program.signal(rank, number);
    ProgramResult result = program.wait();
    if (twice)
      result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - second).count();
    EXPECT_FALSE(result.timed_out) << result.output;
    EXPECT_EQ(result.left_behind, 0) << result.output;
    return result;
  }

  void expect_saved(const ProgramResult& result, const std::string& run) const {
    EXPECT_EQ(result.exit_code, kExitStopped) << result.output;
    EXPECT_NE(result.output.find("Asked to end after step"), std::string::npos) << result.output;
    const std::vector<StepRecord> records = read_metrics(path(run));
    const int64_t trained = records.empty() ? 0 : records.back().step;
    const auto newest = newest_checkpoint(path(run) / "checkpoints");
    EXPECT_EQ(newest ? read_manifest(*newest).step() : 0, trained) << result.output;
  }
};

TEST_F(ProgramSignals, EachSignalAtEachRankSavesTheStep) {
  const Moment moment{"training", "step 2/", kEndless};
  for (const int ranks : {0, 2}) {
    for (int rank = ranks > 0 ? RunningProgram::kStarter : 0; rank < std::max(ranks, 1); ++rank) {
      for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) {
        // Of two ranks each hears some.
        if (ranks > 0 && rank >= 0 && (number == SIGTERM || number == SIGUSR1) != (rank == 0)) continue;
        SCOPED_TRACE(fmt::format("signal {} at rank {} of {}", number, rank, ranks));
        const std::string run = fmt::format("run_{}_{}_{}", ranks, rank, number);
        expect_saved(signal_at(moment, ranks, rank, number, run), run);
        EXPECT_GE(read_metrics(path(run)).size(), 2);
      }
    }
  }
}

TEST_F(ProgramSignals, ARankOfATensorGroupAloneIsHeard) {
  const Moment moment{"training", "step 2/", with(kEndless, {"parallel.tensor=2"})};
  expect_saved(signal_at(moment, 2, 1, SIGUSR1, "run"), "run");
}

TEST_F(ProgramSignals, EveryMomentOfARunIsOneToEndAt) {
  const std::vector<std::string> slow_fsync = {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC, "SLOW_FSYNC_OF=.tmp-step_",
                                               "SLOW_FSYNC_MS=300"};
  for (const Moment& moment : {
           Moment{"first_step", "parameters in", with(kEndless, {"train.global_batch=2000"})},
           {"evaluation", "held-out perplexity before",
            with(kEndless, {"data.validation=train", "train.eval_every=1", "train.eval_sequences=0"})},
           {"first_evaluation", "parameters in",
            with(kEndless, {"data.validation=train", "train.eval_sequences=0"})},
           {"saving", "slow fsync", with(kEndless, {"checkpoint.every=3"}), slow_fsync},
           {"sampling",
            "saved ",
            {"train.steps=1", "model.hidden_size=256", "train.sample_prompt=the",
             "train.sample_tokens=100000"}},
       }) {
    for (const int rank : {0, 1}) {
      SCOPED_TRACE(fmt::format("{}, rank {}", moment.name, rank));
      const std::string run = fmt::format("{}_{}", moment.name, rank);
      expect_saved(signal_at(moment, 2, rank, SIGTERM, run), run);
    }
  }
}

TEST_F(ProgramSignals, AStepWhoseSaveFailedIsSavedAgainAtTheEnd) {
  // The signal comes while the save fails, before the ranks next look at votes. /.tmp-step_00000003…
  const Moment moment{"saving",
                      "failing mkdir",
                      with(kEndless, {"checkpoint.every=3"}),
                      {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC, "FAILING_MKDIR_OF=-step_00000003"}};
  for (const int ranks : {0, 2}) {
    const std::string run = fmt::format("run_{}", ranks);
    const ProgramResult result = signal_at(moment, ranks, std::max(ranks - 1, 0), SIGTERM, run);
    EXPECT_NE(result.output.find("no checkpoint at step 3"), std::string::npos) << result.output;
    expect_saved(result, run);
  }
}

TEST_F(ProgramSignals, BeforeTheFirstStepNothingIsSavedAndNothingLost) {
  // Before MPI has started, too: as soon as the program listens.
  std::vector<std::string> arguments = {"train", "config.textproto", "--set", "data.validation=train"};
  RunningProgram program(arguments, {.directory = path("")});
  while (program.running() && !program.listens_to(0, SIGUSR1)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  program.signal(0, SIGUSR1);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, kExitStopped) << result.output;
  EXPECT_NE(result.output.find("nothing was trained"), std::string::npos) << result.output;
  EXPECT_EQ(newest_checkpoint(path("run/checkpoints")), std::nullopt);
}

TEST_F(ProgramSignals, TheSecondEndsAtOnce) {
  const Moment moment{"saving",
                      "slow fsync",
                      with(kEndless, {"checkpoint.every=1"}),
                      {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC, "SLOW_FSYNC_OF=.tmp-step_", "SLOW_FSYNC_MS=25000"}};
  for (const int ranks : {0, 2}) {
    for (const int rank : {0, RunningProgram::kStarter}) {
      SCOPED_TRACE(fmt::format("rank {} of {}", rank, ranks));
      const ProgramResult result = signal_at(moment, ranks, rank, SIGTERM, "run", true);
      EXPECT_GT(result.exit_code, 128) << result.output;
      EXPECT_LT(result.seconds, 20);
      EXPECT_EQ(newest_checkpoint(path("run/checkpoints")), std::nullopt);
    }
  }
}

TEST_F(ProgramSignals, ARunThatWasAskedToEndGoesOnByteForByte) {
  const std::vector<std::string> steps = {"optimizer.schedule=CONSTANT", "data.validation="};
  const Moment moment{"training", "step 3/", kEndless};
  expect_saved(signal_at(moment, 2, 1, SIGINT, "cut"), "cut");
  const int64_t step = read_manifest(checkpoint("cut")).step();
  const std::vector<std::string> on = with(steps, {fmt::format("train.steps={}", step + 3)});
  train("cut", on, 2);
  train("whole", on, 2);
  for (const char* name : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(read_file(checkpoint("cut") / name) == read_file(checkpoint("whole") / name)) << name;
  EXPECT_EQ(read_metrics(path("cut")), read_metrics(path("whole")));
}

TEST_F(ProgramSignals, MinutesBringACheckpointWithoutBeingAskedFor) {
  const std::vector<std::string> arguments = {
      "train", "config.textproto", "--set", "train.steps=1000000",
      "--set", "data.validation=", "--set", "checkpoint.every_minutes=0.005"};
  RunningProgram program(arguments, {.ranks = 2, .directory = path("")});
  EXPECT_TRUE(program.prints("saved ")) << program.output();
  program.signal(0, SIGUSR1);
  EXPECT_EQ(program.wait().exit_code, kExitStopped);
}

TEST_F(ProgramSignals, WhatRankZeroDoesAloneIsNotTimed) {
  for (const char* file : {"/config.textproto", "/metrics.jsonl"}) {
    RunningProgram program({"train", "config.textproto", "--set", "parallel.timeout_seconds=3", "--set",
                            "train.steps=2", "--set", fmt::format("run.dir=run{}", file + 1)},
                           {.ranks = 2,
                            .directory = path(""),
                            .environment = {"LD_PRELOAD=" SPANWISE_SLOW_FSYNC,
                                            fmt::format("SLOW_FSYNC_OF={}", file), "SLOW_FSYNC_MS=4500"}});
    const ProgramResult result = program.wait();
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("slow fsync"), std::string::npos) << result.output;
  }
}

}  // namespace
}  // namespace spanwise::testing
