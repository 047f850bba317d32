#include "base/clock.h"

#include "absl/time/time.h"
#include "base/fake_clock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(ClockTest, RealClockNeverGoesBack) {
  MonotonicTime last = RealClock().Now();
  for (int i = 0; i < 1000; ++i) {
    const MonotonicTime now = RealClock().Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(ClockTest, RealClockMovesOn) {
  const MonotonicTime start = RealClock().Now();
  while (RealClock().Now() == start) {  // a clock that stands still is a time-out
  }
}

TEST(ClockTest, FakeClockMovesOnlyWhenTold) {
  FakeClock clock;
  const MonotonicTime start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(absl::Milliseconds(3));
  EXPECT_EQ(clock.Now() - start, absl::Milliseconds(3));
  EXPECT_EQ(clock.Now(), start + absl::Milliseconds(3));
}

}  // namespace
}  // namespace quire
