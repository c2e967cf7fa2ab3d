// A job whose second rank stops, dies or never joins must end by itself although a GPU waits for it, and say
// where it was. Needs two GPUs.

#include "tests/parallel/losing_job.h"

namespace spanwise::testing {
namespace {

constexpr const char* kTimeout = "4";  ///< seconds; ranks may take one to connect

TEST(LostGpuRank, OneThatNeverJoinsEndsTheJobAtTheTimeout) {
  LosingJob job(2, "cuda", "sleep", kTimeout);
  expect_ended_and_explained(job);
  EXPECT_NE(job.output().find(fmt::format("waited {} s", kTimeout)), std::string::npos) << job.output();
}

TEST(LostGpuRank, AStoppedOneEndsTheJobAtTheTimeout) {
  LosingJob job(2, "cuda", "stop", kTimeout);
  expect_ended_and_explained(job);
}

// By mpirun's SIGTERM or, where GPUs talk over a network, by the connection's end.
TEST(LostGpuRank, AKilledOneEndsTheJobBeforeTheTimeout) {
  LosingJob job(2, "cuda", "kill", "300");
  expect_ended_and_explained(job);
}

TEST(LostGpuRank, ATicketThatNobodyWaitedForFailsTheNextCall) {
  LosingJob job(2, "cuda", "forget", "300");
  expect_ended_saying(
      job,
      "barrier 'next' #4 on axis data cannot start: all_reduce 'forgotten' #3 on axis data was "
      "started, but nobody waited for it");
}

TEST(LostGpuRank, AnErrorWithACollectiveInFlightIsNotHeldUp) {
  LosingJob job(2, "cuda", "throw", "300");
  expect_ended_saying(job, "rank 1: something else went wrong");
  EXPECT_EQ(job.output().find("SIGTERM"), std::string::npos) << job.output();
}

}  // namespace
}  // namespace spanwise::testing
