#include "launcher/metrics/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>
#include <string>

#include "launcher/metrics/console.h"
#include "launcher/metrics/history.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

StepMetrics metrics_of(int64_t step) {
  return {.step = step,
          .loss = 6.2031,
          .grad_norm = 0.81,
          .lr = 3e-4,
          .tokens_seen = step * 1024,
          .tokens_per_second = 5312.4,
          .step_ms = 193,
          .tflops = 0.118,
          .data_ms = 2,
          .memory_bytes = 1 << 30};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

class MetricsFiles : public testing::Test {
 protected:
  // Steps (from, to] of a run that resumed from `from`.
  void run(int64_t from, int64_t to, int columns = 0, int log_every = 10) {
    MetricsWriter writer({.run_dir = dir_ / "run",
                          .total_steps = 400,
                          .resume_step = from,
                          .tensorboard = false,
                          .terminal_columns = [columns] { return columns; },
                          .log_every = log_every,
                          .console = &console_});
    for (int64_t step = from + 1; step <= to; ++step) writer.write(metrics_of(step));
  }
  std::filesystem::path history() const { return dir_ / "run/metrics.jsonl"; }
  std::vector<std::string> history_lines() const { return lines_of(read_file(history())); }
  // The steps in the history must be 1, 2, ..., last.
  void expect_history_is(int64_t last) const {
    const auto lines = history_lines();
    ASSERT_EQ(lines.size(), last);
    for (int64_t i = 0; i < last; ++i) {
      EXPECT_EQ(lines[i].find("{\"step\":" + std::to_string(i + 1) + ",\"loss\":6.2031,"), 0) << lines[i];
      EXPECT_EQ(lines[i].back(), '}');
    }
  }

  TempDir dir_;
  std::ostringstream console_;
};

TEST(ConsoleLine, ShowsEveryFigureInItsPlace) {
  StepMetrics metrics = metrics_of(12);
  EXPECT_EQ(format_step_line(metrics, {.total_steps = 400, .loss_z_score = -0.4, .remaining_ms = 72'000}),
            "step 12/400 | loss 6.2031 (-0.4z) | norm 0.81 | lr 3.00e-04 | 5,312 tok/s | 193 ms | 0.118 "
            "tflops | ETA 1m12s");
  metrics.validation_loss = 2.0;
  EXPECT_EQ(format_step_line(metrics, {.total_steps = 400, .remaining_ms = 72'000}),
            "step 12/400 | loss 6.2031 | norm 0.81 | lr 3.00e-04 | 5,312 tok/s | 193 ms | 0.118 tflops | "
            "val 2.0000 (ppl 7.39) | ETA 1m12s");
  metrics.tflops = 412.345;
  metrics.mfu_percent = 41.69;
  EXPECT_CONTAINS(format_step_line(metrics, {}), "| 193 ms | 412 tflops | mfu 41.7% | val 2.0000");
}

TEST(HistoryLine, HasNoShareOfAnUnknownPeak) {
  EXPECT_EQ(history_line(metrics_of(1)).find("mfu"), std::string::npos);
}

TEST(ConsoleLine, NonFiniteFiguresArePrintedNotConverted) {
  StepMetrics metrics = metrics_of(1);
  metrics.loss = NAN;
  metrics.tokens_per_second = INFINITY;
  const std::string line = format_step_line(metrics, {.total_steps = 1, .remaining_ms = NAN});
  EXPECT_CONTAINS(line, "loss nan");
  EXPECT_CONTAINS(line, "| ? tok/s");
  EXPECT_CONTAINS(line, "ETA ?");
}

TEST(ConsoleLine, DurationsAndCommas) {
  EXPECT_EQ(format_duration(0), "0s");
  EXPECT_EQ(format_duration(59'499), "59s");
  EXPECT_EQ(format_duration(59'600), "1m00s");
  EXPECT_EQ(format_duration(3'599'600), "1h00m");
  EXPECT_EQ(format_duration(7'500'000), "2h05m");
  EXPECT_EQ(format_duration(86'399'000), "1d00h");
  EXPECT_EQ(format_duration(273'600'000), "3d04h");
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(-123456), "-123,456");
  EXPECT_EQ(with_commas(1234567890), "1,234,567,890");
}

TEST(ConsoleLine, LiveLineShowsBarAndEtaFirstAndNeverReachesTheLastColumn) {
  const StepLineContext context{.total_steps = 24, .remaining_ms = 72'000};
  EXPECT_EQ(
      format_live_line(metrics_of(12), context, 200),
      "[========        ] ETA 1m12s | step 12/24 | loss 6.2031 | norm 0.81 | lr 3.00e-04 | 5,312 tok/s | "
      "193 ms | 0.118 tflops");
  for (int columns : {1, 2, 20, 80}) {
    EXPECT_EQ(format_live_line(metrics_of(12), context, columns).size(), columns - 1);
  }
}

TEST_F(MetricsFiles, PlainConsoleHasOneLineAStepAndNoControlCharacters) {
  run(0, 25, 0, 1);
  const auto lines = lines_of(console_.str());
  ASSERT_EQ(lines.size(), 25);
  EXPECT_EQ(
      lines[0],
      "step 1/400 | loss 6.2031 | norm 0.81 | lr 3.00e-04 | 5,312 tok/s | 193 ms | 0.118 tflops | ETA 1m17s");
  EXPECT_EQ(console_.str().find_first_of("\r\x1b"), std::string::npos);
}

TEST_F(MetricsFiles, PlainConsoleMayKeepEveryNthLineWhileTheHistoryKeepsAll) {
  run(0, 25, 0, 10);
  EXPECT_EQ(lines_of(console_.str()).size(), 2);
  expect_history_is(25);
}

TEST_F(MetricsFiles, TerminalKeepsEveryNthLineAndRewritesTheLiveOne) {
  run(0, 25, 80, 10);
  const std::string text = console_.str();
  EXPECT_EQ(lines_of(text).size(), 3);  // steps 10 and 20, and the live line of step 25
  EXPECT_CONTAINS(text, "\r\x1b[Kstep 10/400");
  EXPECT_CONTAINS(text, "\r\x1b[K[=               ] ETA 1m12s | step 25/400");
  EXPECT_EQ(text.back(), '\n');
}

TEST_F(MetricsFiles, TheLiveLineFollowsTheTerminalsWidth) {
  int columns = 80;
  MetricsWriter writer({.run_dir = dir_ / "run",
                        .total_steps = 400,
                        .tensorboard = false,
                        .terminal_columns = [&columns] { return columns; },
                        .log_every = 100,
                        .console = &console_});
  const auto live_columns = [&](int now, int64_t step) {
    columns = now;
    const size_t before = console_.str().size();
    writer.write(metrics_of(step));
    const std::string written = console_.str().substr(before);
    return written.size() - written.rfind('[');
  };
  EXPECT_EQ(live_columns(80, 1), 79);
  EXPECT_EQ(live_columns(40, 2), 39);
  EXPECT_EQ(live_columns(60, 3), 59);
}

TEST_F(MetricsFiles, TheLossBeforeTrainingIsStepZeroOfAFreshStartOnly) {
  const auto start = [&](int64_t from) {
    MetricsWriter writer({.run_dir = dir_ / "run",
                          .total_steps = 400,
                          .resume_step = from,
                          .tensorboard = false,
                          .console = &console_});
    if (from == 0) writer.write_before_training(std::log(4.0));
    writer.write(metrics_of(from + 1));
  };
  start(0);
  start(0);  // again from the beginning: one step 0, not two
  start(1);  // a resume keeps it
  const auto lines = history_lines();
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines[0].find("{\"step\":0,\"tokens_seen\":0,\"validation_loss\":1.386"), 0) << lines[0];
  EXPECT_CONTAINS(lines[0], "\"validation_perplexity\":4");
  EXPECT_EQ(lines[1].find("{\"step\":1,"), 0);
  EXPECT_EQ(lines[2].find("{\"step\":2,"), 0);
}

TEST_F(MetricsFiles, AMessageDoesNotBreakTheLiveLine) {
  MetricsWriter writer({.run_dir = dir_ / "run",
                        .total_steps = 400,
                        .tensorboard = false,
                        .terminal_columns = [] { return 80; },
                        .console = &console_});
  writer.write(metrics_of(1));
  writer.message("saved");
  EXPECT_TRUE(console_.str().ends_with("\r\x1b[Ksaved\n"));
}

TEST_F(MetricsFiles, ALossFarFromItsWindowShowsAsZScore) {
  MetricsWriter writer(
      {.run_dir = dir_ / "run", .total_steps = 400, .tensorboard = false, .console = &console_});
  for (int64_t step = 1; step <= 16; ++step) {
    StepMetrics metrics = metrics_of(step);
    metrics.loss = step % 2 ? 4 : 2;  // mean 3, standard deviation 1
    writer.write(metrics);
  }
  EXPECT_EQ(console_.str().find("z)"), std::string::npos);
  StepMetrics spike = metrics_of(17);
  spike.loss = 8;
  writer.write(spike);
  EXPECT_CONTAINS(console_.str(), "loss 8.0000 (+5.0z)");
}

TEST_F(MetricsFiles, ZScoresGoOnAfterAResume) {
  for (int64_t from : {0, 8}) {
    MetricsWriter writer({.run_dir = dir_ / "run",
                          .total_steps = 400,
                          .resume_step = from,
                          .tensorboard = false,
                          .console = &console_});
    for (int64_t step = from + 1; step <= from + 8; ++step) {
      StepMetrics metrics = metrics_of(step);
      metrics.loss = step % 2 ? 4 : 2;
      writer.write(metrics);
    }
  }
  MetricsWriter writer({.run_dir = dir_ / "run",
                        .total_steps = 400,
                        .resume_step = 16,
                        .tensorboard = false,
                        .console = &console_});
  StepMetrics spike = metrics_of(17);
  spike.loss = 8;
  writer.write(spike);
  EXPECT_CONTAINS(console_.str(), "loss 8.0000 (+5.0z)");
}

TEST_F(MetricsFiles, HistoryLineHasThePinnedKeysAndNullForNonFinite) {
  StepMetrics metrics = metrics_of(7);
  metrics.grad_norm = NAN;
  metrics.mfu_percent = 12.5;
  metrics.validation_loss = INFINITY;
  metrics.extra = {{"memory/num_alloc_retries", 3}};
  EXPECT_EQ(
      history_line(metrics).find(
          R"({"step":7,"loss":6.2031,"grad_norm":null,"lr":0.0003,"tokens_seen":7168,)"
          R"~("tokens_per_second":5312.4,"step_ms":193,"tflops":0.118,"mfu(%)":12.5,)~"
          R"("data_ms":2,"memory_bytes":1073741824,)"
          R"("validation_loss":null,"validation_perplexity":null,"memory/num_alloc_retries":3,"wall_time":)"),
      0)
      << history_line(metrics);
}

TEST_F(MetricsFiles, EveryStepIsInTheFileBeforeTheNextOne) {
  MetricsWriter writer(
      {.run_dir = dir_ / "run", .total_steps = 400, .tensorboard = false, .console = &console_});
  for (int64_t step = 1; step <= 3; ++step) {
    writer.write(metrics_of(step));
    expect_history_is(step);
  }
  writer.sync();
}

TEST_F(MetricsFiles, ResumeDropsStepsAfterTheCheckpointAndGoesOnWithoutGapOrRepeat) {
  run(0, 9);
  run(6, 8);
  expect_history_is(8);
  run(8, 12);
  expect_history_is(12);
}

TEST_F(MetricsFiles, AFreshStartBeginsAFreshHistory) {
  run(0, 9);
  run(0, 2);
  expect_history_is(2);
}

TEST_F(MetricsFiles, WhatAResumeCutsOffIsKeptAsideAndSaid) {
  run(0, 9);
  const std::string whole = read_file(history());
  write_file(history(), whole + "{\"step\":10,\"lo");
  run(6, 6);
  const std::string aside = (dir_ / "run/metrics.jsonl.after-step_00000006-1").string();
  EXPECT_EQ(read_file(history()) + read_file(aside), whole + "{\"step\":10,\"lo");
  EXPECT_CONTAINS(console_.str(), "4 records of");
  EXPECT_CONTAINS(console_.str(), aside);
  run(6, 7);
  run(6, 6);
  EXPECT_EQ(lines_of(read_file(dir_ / "run/metrics.jsonl.after-step_00000006-2")).size(), 1);
  run(0, 0);
  EXPECT_EQ(lines_of(read_file(dir_ / "run/metrics.jsonl.after-step_00000000-1")).size(), 6);
}

TEST_F(MetricsFiles, AHistoryThatEndsBeforeTheCheckpointIsSaid) {
  run(0, 3);
  run(5, 5);
  EXPECT_CONTAINS(console_.str(), "ends with step 3: the records up to step 5 are not in it");
}

TEST_F(MetricsFiles, AChangedDigitIsNamedAndDropsNothing) {
  run(0, 8);
  const std::string whole = read_file(history());
  for (const char digit : {'1', '9'}) {
    std::string content = whole;
    content[content.find("{\"step\":3") + 8] = digit;
    write_file(history(), content);
    const std::string message = user_error_of([&] { run(8, 9); });
    EXPECT_CONTAINS(message, digit == '1' ? "metrics.jsonl line 3" : "metrics.jsonl line 4");
    EXPECT_EQ(read_file(history()), content);
  }
}

TEST_F(MetricsFiles, ATornLastLineIsDropped) {
  run(0, 5);
  const std::string whole = read_file(history());
  for (size_t cut = 1; cut < 40; ++cut) {
    write_file(history(), whole.substr(0, whole.size() - cut));
    run(4, 5);
    expect_history_is(5);
  }
  write_file(history(), whole + std::string(100, '\0'));  // what a power cut leaves
  run(5, 6);
  expect_history_is(6);
}

TEST_F(MetricsFiles, AnIntactHistoryIsNotRewritten) {
  run(0, 5);
  const auto before = std::filesystem::last_write_time(history());
  const std::string content = read_file(history());
  EXPECT_EQ(rewind_history(history(), 5, 2).losses, (std::vector<double>{6.2031, 6.2031}));
  EXPECT_EQ(std::filesystem::last_write_time(history()), before);
  EXPECT_EQ(read_file(history()), content);
}

TEST_F(MetricsFiles, AForeignLineIsNamedAndTheFileLeftAlone) {
  run(0, 3);
  std::string content = read_file(history());
  content.insert(content.find('\n') + 1, "hello\n");
  write_file(history(), content);
  const std::string message = user_error_of([&] { run(3, 4); });
  EXPECT_CONTAINS(message, "metrics.jsonl line 2");
  EXPECT_EQ(read_file(history()), content);
}

TEST_F(MetricsFiles, AnUnwritableRunDirectoryIsNamed) {
  write_file(dir_ / "file", "");
  const std::string message = user_error_of(
      [&] { MetricsWriter writer({.run_dir = dir_ / "file/run", .total_steps = 1, .console = &console_}); });
  EXPECT_CONTAINS(message, "file/run");
}

TEST_F(MetricsFiles, TensorBoardFilesCarryTheTags) {
  {
    MetricsWriter writer({.run_dir = dir_ / "run", .total_steps = 400, .console = &console_});
    StepMetrics metrics = metrics_of(1);
    metrics.mfu_percent = 12.5;
    metrics.validation_loss = 2;
    metrics.extra = {{"router/load", 1}};
    writer.write(metrics);
  }
  std::string content;
  for (const auto& entry : std::filesystem::directory_iterator(dir_ / "run/tensorboard")) {
    content += read_file(entry.path());
  }
  for (const char* tag :
       {"loss_metrics/global_avg_loss", "optimizer/grad_norm", "optimizer/lr", "n_tokens_seen",
        "throughput(tps)", "tflops", "mfu(%)", "time_metrics/end_to_end(s)", "time_metrics/data_loading(s)",
        "time_metrics/data_loading(%)", "memory/max_active(GiB)", "loss_metrics/validation_loss",
        "loss_metrics/validation_perplexity", "router/load"}) {
    EXPECT_NE(content.find(tag), std::string::npos) << tag;
  }
}

}  // namespace
}  // namespace spanwise
