#include "parallel/stop_request.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "parallel/rank_zero.h"
#include "parallel/termination_watch.h"

namespace spanwise {
namespace {

TEST(StopSignals, TheFirstOfEachIsRememberedAndForgottenWithTheObject) {
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) {
    StopRequest stop;
    {
      const StopSignals signals;
      EXPECT_EQ(stop.vote(), 0);
      ::raise(signal);
      EXPECT_EQ(stop_signal(), signal);
      EXPECT_EQ(stop.vote(), 1);
      EXPECT_FALSE(stop.agreed());
    }
    EXPECT_EQ(stop_signal(), 0);
    EXPECT_FALSE(stop.agree(0));
    EXPECT_TRUE(stop.agree(2));
    EXPECT_TRUE(stop.agree(0));
  }
}

TEST(StopSignals, TheSecondEndsTheProcessByItself) {
  const auto twice = [] {
    const StopSignals signals;
    ::raise(SIGTERM);
    ::usleep(60'000);
    ::raise(SIGUSR2);
  };
  EXPECT_EXIT(twice(), ::testing::KilledBySignal(SIGUSR2), "");
}

TEST(StopSignals, OneThatArrivesTwiceAtOnceIsOne) {
  const StopSignals signals;
  ::raise(SIGUSR1);
  ::raise(SIGUSR1);
  EXPECT_EQ(stop_signal(), SIGUSR1);
}

TEST(StopSignals, WhatIsIgnoredStaysIgnored) {
  const auto before = ::signal(SIGINT, SIG_IGN);
  {
    const StopSignals signals;
    ::raise(SIGINT);
    EXPECT_EQ(stop_signal(), 0);
  }
  ::signal(SIGINT, before);
}

TEST(StopSignals, AWaitIsNotEndedByASigtermThatAsksToSave) {
  const StopSignals signals;
  const TerminationWatch watch;
  ::raise(SIGTERM);
  ::usleep(400'000);
  EXPECT_FALSE(watch.came());
}

TEST(RunOnRankZero, GivesTheResultAndThrowsTheError) {
  const auto world = make_self_comm();
  StopRequest stop;
  EXPECT_EQ(run_on_rank_zero(*world, "work", [] { return std::string("done"); }), "done");
  EXPECT_EQ(run_on_rank_zero(
                *world, "work", [] { return std::string("done"); }, &stop),
            "done");
  EXPECT_THROW(run_on_rank_zero(
                   *world, "work", []() -> std::string { throw Error("no"); }, &stop),
               Error);
}

TEST(RunOnRankZero, TheWorkLearnsThatARankWasAskedToEnd) {
  const StopSignals signals;
  const auto world = make_self_comm();
  StopRequest stop;
  const auto work = [&] {
    while (!stop.agreed()) ::usleep(1000);
    return std::string();
  };
  ::raise(SIGUSR1);
  run_on_rank_zero(*world, "work", work, &stop);
  EXPECT_TRUE(stop.agreed());
}

}  // namespace
}  // namespace spanwise
