#include "core/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <ostream>
#include <sstream>
#include <streambuf>
#include <string>
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

/// A stream that another thread writes to while it is looked at.
class SharedText : public std::streambuf {
 public:
  std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }
  /// Waits until `part` was written, at most ten seconds.
  bool comes_to_hold(const std::string& part) const {
    for (int i = 0; i < 10000 && text().find(part) == std::string::npos; ++i)
      std::this_thread::sleep_for(1ms);
    return text().find(part) != std::string::npos;
  }

 protected:
  int_type overflow(int_type c) override {
    const std::lock_guard lock(mutex_);
    text_ += char(c);
    return c;
  }
  std::streamsize xsputn(const char* data, std::streamsize size) override {
    const std::lock_guard lock(mutex_);
    text_.append(data, size_t(size));
    return size;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

TEST(Progress, ATerminalHasALiveLineThatFollowsItsWidthAndGoes) {
  SharedText shared;
  std::ostream out(&shared);
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
    EXPECT_TRUE(shared.comes_to_hold("\r\x1b[Kreading: 250 of 1000 parts of something\r")) << shared.text();
    columns = 20;
    EXPECT_TRUE(shared.comes_to_hold("\r\x1b[Kreading: 250 of 100\r")) << shared.text();
  }
  const std::string text = shared.text();
  EXPECT_TRUE(text.ends_with("\r\x1b[K")) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(Progress, ElsewhereLinesComeEverMoreRarely) {
  SharedText shared;
  std::ostream out(&shared);
  const auto start = std::chrono::steady_clock::now();
  {
    const Progress progress({.what = "reading", .out = &out, .columns = [] { return 0; }, .delay = 10ms});
    EXPECT_TRUE(shared.comes_to_hold("\n"));
    std::this_thread::sleep_for(200ms);
  }
  const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start;
  const std::string text = shared.text();
  const auto lines = std::count(text.begin(), text.end(), '\n');
  EXPECT_LE(double(lines), std::floor(std::log2(passed.count() / 10)) + 1) << text;  // after 10, 20, 40 … ms
  EXPECT_EQ(text.find_first_of("\r\x1b"), std::string::npos);
}

}  // namespace
}  // namespace spanwise
