#include "core/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <thread>

namespace spanwise {
namespace {

using namespace std::chrono_literals;

TEST(Progress, TextSaysHowFarAndHowLong) {
  ProgressOptions options{.what = "evaluating", .unit = "sequences", .total = 640};
  EXPECT_EQ(progress_text(options, 128, 8000), "evaluating: 128 of 640 sequences (20%), 32s left");
  EXPECT_EQ(progress_text(options, 0, 8000), "evaluating: 0 of 640 sequences (0%)");
  options.total = 0;
  EXPECT_EQ(progress_text(options, 0, 12000), "evaluating: 12s");
}

TEST(Progress, BeginsAfterTwoSecondsOrAsTheEnvironmentSays) {
  EXPECT_EQ(progress_delay(), 2s);
  ::setenv("SPANWISE_PROGRESS_SECONDS", "30", 1);
  EXPECT_EQ(ProgressOptions{}.delay, 30s);
  ::unsetenv("SPANWISE_PROGRESS_SECONDS");
}

TEST(Progress, ShortWorkShowsNothing) {
  std::ostringstream out;
  {
    const Progress progress({.what = "reading", .out = &out, .columns = [] { return 80; }});
  }
  EXPECT_EQ(out.str(), "");
}

TEST(Progress, ATerminalHasALiveLineThatFollowsItsWidthAndGoes) {
  std::ostringstream out;
  std::atomic<int> columns = 40;
  {
    Progress progress({.what = "reading",
                       .unit = "parts of something long",
                       .total = 1000,
                       .out = &out,
                       .columns = [&] { return columns.load(); },
                       .delay = 1ms,
                       .redraw = 1ms});
    progress.advance_to(250);
    std::this_thread::sleep_for(40ms);
    columns = 20;
    std::this_thread::sleep_for(40ms);
  }
  const std::string text = out.str();
  EXPECT_NE(text.find("\r\x1b[Kreading: 250 of 1000 parts of something\r"), std::string::npos) << text;
  EXPECT_NE(text.find("\r\x1b[Kreading: 250 of 100\r"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("\r\x1b[K")) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(Progress, ElsewhereLinesComeEverMoreRarely) {
  std::ostringstream out;
  {
    const Progress progress({.what = "reading", .out = &out, .columns = [] { return 0; }, .delay = 10ms});
    std::this_thread::sleep_for(200ms);
  }
  const std::string text = out.str();
  const auto lines = std::count(text.begin(), text.end(), '\n');
  EXPECT_GE(lines, 1);
  EXPECT_LE(lines, 5) << text;  // after 10, 20, 40, 80, 160 ms
  EXPECT_EQ(text.find_first_of("\r\x1b"), std::string::npos);
}

}  // namespace
}  // namespace spanwise
