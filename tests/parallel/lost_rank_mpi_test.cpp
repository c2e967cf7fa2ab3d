// A job whose last rank stops, dies or never joins must end by itself, and say where it was.

#include "tests/parallel/losing_job.h"

namespace spanwise::testing {
namespace {

TEST(LostRank, OneThatNeverJoinsEndsTheJobAtTheTimeout) {
  LosingJob job(3, "cpu", "sleep", "1");
  expect_ended_and_explained(job);
  EXPECT_NE(job.output().find("waited 1 s"), std::string::npos) << job.output();
}

TEST(LostRank, AStoppedOneEndsTheJobAtTheTimeout) {
  LosingJob job(3, "cpu", "stop", "1");
  expect_ended_and_explained(job);
  EXPECT_NE(job.output().find("waited 1 s"), std::string::npos) << job.output();
}

TEST(LostRank, AKilledOneEndsTheJobBeforeTheTimeout) {
  LosingJob job(3, "cpu", "kill", "300");
  expect_ended_and_explained(job);
  EXPECT_NE(job.output().find("SIGTERM"), std::string::npos) << job.output();
}

TEST(LostRank, OneThatMakesAnotherCallEndsTheJob) {
  LosingJob job(3, "cpu", "mismatch", "300");
  expect_ended_saying(job, "the ranks do not make the same calls");
}

TEST(LostRank, ATicketThatNobodyWaitedForFailsTheNextCall) {
  LosingJob job(3, "cpu", "forget", "300");
  expect_ended_saying(
      job,
      "barrier 'next' #4 on axis data cannot start: all_reduce 'forgotten' #3 on axis data was "
      "started, but nobody waited for it");
}

TEST(LostRank, AnErrorWithACollectiveInFlightIsNotHeldUp) {
  LosingJob job(3, "cpu", "throw", "300");
  expect_ended_saying(job, "rank 2: something else went wrong");
  // The others were ended because of it and have nothing to add.
  EXPECT_EQ(job.output().find("SIGTERM"), std::string::npos) << job.output();
}

}  // namespace
}  // namespace spanwise::testing
