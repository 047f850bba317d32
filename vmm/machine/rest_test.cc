#include "vmm/machine/rest.h"

#include "gtest/gtest.h"

namespace quire {
namespace {

// A vCPU that works for `burst` and then asks, for ten seconds; and how much of them it has slept.
double ShareSlept(int idle_percent, absl::Duration burst, absl::Duration late = absl::ZeroDuration()) {
  Rest rest;
  MonotonicTime now;
  absl::Duration slept;
  while (now - MonotonicTime() < absl::Seconds(10)) {
    const absl::Duration owed = rest.Owes(idle_percent, now);
    const absl::Duration passes = owed > absl::ZeroDuration() ? owed + late : burst;
    if (owed > absl::ZeroDuration()) slept += passes;
    now = now + passes;
  }
  return absl::FDivDuration(slept, now - MonotonicTime());
}

TEST(RestTest, AVcpuSleepsForItsShareWhateverItsBursts) {
  for (const int percent : {1, 10, 50, 90, 99}) {
    for (const absl::Duration burst : {absl::Microseconds(1), absl::Microseconds(70), absl::Milliseconds(3)}) {
      EXPECT_NEAR(ShareSlept(percent, burst), percent / 100.0, 0.04) << percent << " percent, " << burst;
    }
  }
}

TEST(RestTest, SleepingTooLongIsMadeUpFor) {
  EXPECT_NEAR(ShareSlept(50, absl::Microseconds(100), /*late=*/absl::Microseconds(60)), 0.5, 0.02);
}

TEST(RestTest, ABusyOneNeverSleepsAndAnIdleOneAlwaysDoes) {
  EXPECT_EQ(ShareSlept(0, absl::Microseconds(70)), 0);
  EXPECT_EQ(ShareSlept(100, absl::Microseconds(70)), 1);
}

TEST(RestTest, WhatItIsAskedForIsNeverLongerThanAPiece) {
  Rest rest;
  (void)rest.Owes(99, MonotonicTime());
  EXPECT_EQ(rest.Owes(99, MonotonicTime() + absl::Seconds(5)), Rest::kPiece);
}

TEST(RestTest, OneThatIsToWorkMoreOwesNothingOfBefore) {
  Rest rest;
  MonotonicTime now;
  (void)rest.Owes(99, now);
  now = now + absl::Seconds(1);
  EXPECT_GT(rest.Owes(99, now), absl::ZeroDuration());
  EXPECT_EQ(rest.Owes(0, now), absl::ZeroDuration());
  EXPECT_EQ(rest.Owes(50, now), absl::ZeroDuration());
}

TEST(RestTest, AfterALongWaitAVcpuWorksAgainWithinASecond) {
  Rest rest;
  MonotonicTime now;
  (void)rest.Owes(99, now);
  now = now + absl::Seconds(100);
  absl::Duration slept;
  for (absl::Duration owed = rest.Owes(99, now); owed > absl::ZeroDuration(); owed = rest.Owes(99, now)) {
    slept += owed;
    now = now + owed;
  }
  EXPECT_GT(slept, absl::Milliseconds(999));
  EXPECT_LE(slept, absl::Seconds(1));
}

}  // namespace
}  // namespace quire
