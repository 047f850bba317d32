#include "vmm/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace quire {
namespace {

// EXPECT_EXIT runs each in a process of its own: a process is interrupted once.

TEST(InterruptDeathTest, TheFirstSignalIsNoted) {
  EXPECT_EXIT(
      {
        CatchInterrupts();
        const bool none = CaughtInterrupt() == 0;
        raise(SIGTERM);
        _exit(none && CaughtInterrupt() == SIGTERM ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(InterruptDeathTest, ASignalSentTwiceInARowCountsOnce) {
  EXPECT_EXIT(
      {
        CatchInterrupts();
        raise(SIGINT);
        raise(SIGINT);
        _exit(CaughtInterrupt() == SIGINT ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(InterruptDeathTest, ASecondSignalLaterEndsTheProcess) {
  EXPECT_EXIT(
      {
        CatchInterrupts();
        raise(SIGINT);
        sleep(2);
        raise(SIGINT);
        _exit(0);
      },
      testing::KilledBySignal(SIGINT), "");
}

TEST(InterruptDeathTest, TheShellSeesTheSignal) {
  EXPECT_EXIT(
      {
        CatchInterrupts();
        DieOfCaughtInterrupt();  // nothing was caught
        raise(SIGTERM);
        DieOfCaughtInterrupt();
        _exit(0);
      },
      testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace quire
