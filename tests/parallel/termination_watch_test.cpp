#include "parallel/termination_watch.h"

#include <gtest/gtest.h>

namespace spanwise {
namespace {

TEST(TerminationWatch, RemembersASigtermOnce) {
  TerminationWatch watch;
  EXPECT_FALSE(watch.take());
  ::raise(SIGTERM);
  EXPECT_TRUE(watch.came());
  EXPECT_TRUE(watch.take());
  EXPECT_FALSE(watch.came());
  EXPECT_FALSE(watch.take());
}

TEST(TerminationWatch, ASigtermThatNobodyTookEndsTheProcessAfterwards) {
  const auto ignore = [] {
    TerminationWatch watch;
    ::raise(SIGTERM);
  };
  EXPECT_EXIT(ignore(), ::testing::KilledBySignal(SIGTERM), "");
}

TEST(TerminationWatch, LeavesAProgramsOwnHandlerInPlace) {
  static volatile sig_atomic_t handled = 0;
  const auto before = ::signal(SIGTERM, [](int) { handled = 1; });
  {
    TerminationWatch watch;
    ::raise(SIGTERM);
    EXPECT_FALSE(watch.take());
  }
  EXPECT_EQ(handled, 1);
  ::signal(SIGTERM, before);
}

}  // namespace
}  // namespace spanwise
