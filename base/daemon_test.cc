#include "base/daemon.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(DaemonTest, WorksWhenItIsWoken) {
  absl::Notification worked;
  Daemon daemon("test", [&] { worked.Notify(); });
  daemon.Start();
  EXPECT_FALSE(worked.HasBeenNotified());
  daemon.Wake();
  worked.WaitForNotification();
}

TEST(DaemonTest, WhatItIsWokenForWhileItWorksIsNotLost) {
  absl::Notification begun, go_on, again;
  std::atomic<int> times = 0;
  Daemon daemon("test", [&] {
    if (++times == 2) return again.Notify();
    begun.Notify();
    go_on.WaitForNotification();
  });
  daemon.Start();
  daemon.Wake();
  begun.WaitForNotification();
  daemon.Wake();
  go_on.Notify();
  again.WaitForNotification();
}

TEST(DaemonTest, CanBeStoppedAndStartedAgain) {
  std::atomic<int> times = 0;
  absl::Notification worked;
  Daemon daemon("test", [&] {
    ++times;
    worked.Notify();
  });
  daemon.Start();
  daemon.Stop();
  daemon.Stop();
  daemon.Wake();
  EXPECT_EQ(times, 0);
  daemon.Start();
  worked.WaitForNotification();
  daemon.Stop();
  EXPECT_EQ(times, 1);
}

TEST(DaemonTest, StopEndsARest) {
  absl::Notification begun;
  Daemon daemon("test", [&] {
    begun.Notify();
    daemon.Rest(absl::InfiniteDuration());
    EXPECT_TRUE(daemon.stopping());
  });
  daemon.Start();
  daemon.Wake();
  begun.WaitForNotification();
  daemon.Stop();
}

}  // namespace
}  // namespace quire
