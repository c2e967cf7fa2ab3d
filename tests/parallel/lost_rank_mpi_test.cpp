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

TEST(LostRank, OneThatIsStoppedBeforeTheFirstCollectiveIsNamed) {
  LosingJob job(3, "cpu", "stop_first", "1");
  expect_ended_saying(job,
                      "barrier 'split data' #0 on axis world: rank 0 of 3 waited 1 s for world rank 2: ");
}

TEST(LostRank, OneThatIsStoppedBeforeMpiStartsIsNamed) {
  LosingJob job(3, "cpu", "before_stop", "2");
  expect_ended_saying(job, "MPI has not started within 2 s on rank ");
  EXPECT_NE(job.output().find("rank 2 (process "), std::string::npos) << job.output();
  EXPECT_NE(job.output().find(") is stopped"), std::string::npos) << job.output();
  EXPECT_TRUE(holds_within(5, [&] { return job.running_ranks().empty(); }));
}

TEST(LostRank, OneThatRunsAnotherProgramIsNamed) {
  LosingJob job(3, "cpu", "before_other", "2");
  expect_ended_saying(job, ") runs 'sleep', not 'lost_rank_program'");
  EXPECT_NE(job.output().find("rank 2 (process "), std::string::npos) << job.output();
}

}  // namespace
}  // namespace spanwise::testing
