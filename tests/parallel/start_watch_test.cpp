#include "parallel/start_watch.h"

#include <gtest/gtest.h>

#include <future>

namespace spanwise::testing {
namespace {

TEST(Blame, NamesStoppedRanksOtherProgramsAndMissingOnes) {
  const RankProcess fine{0, 100, 'S', "spanwise"}, stopped{1, 101, 'T', "spanwise"},
      other{2, 102, 'S', "sleep"}, zombie{3, 103, 'Z', ""};
  EXPECT_EQ(blame({fine}, "spanwise", 1), "");
  EXPECT_EQ(blame({fine, stopped}, "spanwise", 2), "rank 1 (process 101) is stopped");
  EXPECT_EQ(blame({fine, other}, "spanwise", 2), "rank 2 (process 102) runs 'sleep', not 'spanwise'");
  EXPECT_EQ(blame({fine, zombie}, "spanwise", 2), "of 2 ranks on this machine 1 are left");
  EXPECT_EQ(blame({stopped, other}, "spanwise", 0),
            "rank 1 (process 101) is stopped, rank 2 (process 102) runs 'sleep', not 'spanwise'");
}

TEST(Blame, AShellAroundTheProgramIsNoOtherProgram) {
  EXPECT_EQ(blame({{0, 100, 'S', "bash"}, {0, 101, 'S', "spanwise"}}, "spanwise", 1), "");
}

TEST(StartWatch, EndsWhatTakesTooLongAndNothingElse) {
  {
    const StartWatch quick(60, [](const std::string&) { FAIL(); });
  }
  {
    const StartWatch never(0, [](const std::string&) { FAIL(); });
  }
  std::promise<std::string> said;
  const StartWatch slow(0.01, [&](const std::string& sentence) { said.set_value(sentence); });
  EXPECT_NE(said.get_future().get().find("MPI has not started within 0.01 s"), std::string::npos);
}

}  // namespace
}  // namespace spanwise::testing
