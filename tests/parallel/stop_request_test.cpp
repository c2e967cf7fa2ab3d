#include "parallel/stop_request.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <optional>
#include <thread>

#include "parallel/rank_zero.h"
#include "parallel/termination_watch.h"

namespace spanwise {
namespace {

TEST(StopSignals, TheFirstOfEachIsRememberedAndForgottenWithTheObject) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) {
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
  // In processes of their own: one that is not scheduled for 50 ms between the two is rightly ended.
  int exit_status = -1;
  for (int attempt = 0; attempt < 5 && exit_status != 0; ++attempt) {
    const pid_t child = ::fork();
    if (child == 0) {
      const StopSignals signals;
      ::raise(SIGUSR1);
      ::raise(SIGUSR1);
      ::_exit(stop_signal() == SIGUSR1 ? 0 : 1);
    }
    ASSERT_EQ(::waitpid(child, &exit_status, 0), child);
  }
  EXPECT_EQ(exit_status, 0);
}

/// Two threads handle one signal each, at about the same time. One that takes itself for a second ends this
/// process.
void deliver_to_two_threads(int rounds) {
  std::atomic<int> arrived{0};
  // The n-th meeting of the two.
  const auto meet = [&](int n) {
    ++arrived;
    while (arrived < 2 * n) ::sched_yield();
  };
  const auto deliver = [&](int round) {
    meet(2 * round + 1);
    ::pthread_kill(::pthread_self(), SIGTERM);
    meet(2 * round + 2);
  };
  std::optional<StopSignals> signals(std::in_place);
  std::atomic<int> fresh{0};
  std::thread other([&] {
    for (int round = 0; round < rounds; ++round) {
      while (fresh < round) ::sched_yield();
      deliver(round);
    }
  });
  for (int round = 0; round < rounds; ++round) {
    deliver(round);
    if (stop_signal() != SIGTERM) std::abort();
    signals.reset();
    signals.emplace();
    fresh = round + 1;
  }
  other.join();
}

TEST(StopSignals, OneThatTwoThreadsHandleAtOnceIsOne) {
  // A busy machine may put 50 ms between the two, and then they are two; not three times in a row.
  bool survived = false;
  for (int attempt = 0; attempt < 3 && !survived; ++attempt) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      deliver_to_two_threads(200'000);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    survived = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  EXPECT_TRUE(survived);
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
