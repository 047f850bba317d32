// Whole runs of guests that have pages in common, on software vCPUs and under KVM: equal pages come to share frames,
// and nobody reads a wrong byte.
#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "tests/run/accel_run_test.h"
#include "tests/run/run_in_child.h"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {
namespace {

class MergeRunTest : public AccelRunTest {
 protected:
  static RunOptions Options() {
    RunOptions options;
    options.accel = kAccel;
    options.guests = 3;
    options.memory = ByteCount::MiB(16);
    options.pool = ByteCount::MiB(64);
    options.huge = Huge::kNever;
    options.workload = "random:common=0.8,written=0.5";
    // Ended by the watch, however slow the machine or the sanitizer.
    options.duration = absl::Minutes(15);
    return options;
  }
  // The run ends when so much of all guests' memory shares frames.
  static Watch UntilShared(ByteCount memory) {
    return [memory](const Snapshot& snapshot) {
      ByteCount shared;
      for (const GuestSnapshot& guest : snapshot.guests) shared += guest.shared;
      return shared >= memory || AnyIsStopped(snapshot);
    };
  }
};

// What is common and not written to is the first half of each guest, of which one page in ten is zero.
TEST_F(MergeRunTest, GuestsShareWhatTheyHaveInCommonAndWriteTheRest) {
  const ChildRun run = RunInChild(Options(), UntilShared(ByteCount::MiB(20)));
  ExpectRightBytes(run);
  EXPECT_GE(run.report["merge"]["saved_bytes"], ByteCount::MiB(10).in_bytes());
  EXPECT_GT(run.report["merge"]["shared_frames"], 0u);
  EXPECT_GT(run.report["pool"]["shared_bytes"], 0u);
  if (kAccel == Accel::kKvm) {
    EXPECT_GT(run.report["notifier"]["islands_made"], 0u);
  }
}

// Sharing, swapping and whole blocks at the same time, with writes to shared pages.
TEST_F(MergeRunTest, SharedPagesAreWrittenAndSwapped) {
  RunOptions options = Options();
  options.huge = Huge::kAlways;
  options.pool = ByteCount::MiB(32);
  options.workload = "zipf:common=1,writes=0.01";
  const ChildRun run = RunInChild(options, [](const Snapshot& snapshot) {
    uint64_t least = ~uint64_t{0};
    for (const GuestSnapshot& guest : snapshot.guests) least = std::min(least, guest.operations);
    return least >= 60'000 || AnyIsStopped(snapshot);
  });
  ExpectRightBytes(run);
  EXPECT_GT(run.report["swap"]["pages_in"], 0u);
  EXPECT_GT(run.report["merge"]["scanned_pages"], 0u);
}

TEST_F(MergeRunTest, NothingIsSharedWhenThatIsOff) {
  RunOptions options = Options();
  options.merge = Merge::kOff;
  options.workload = "random:common=0.8,written=0.5,operations=30000";
  const ChildRun run = RunInChild(options);
  ExpectRightBytes(run);
  EXPECT_EQ(run.report["merge"]["scanned_pages"], 0u);
  EXPECT_EQ(run.report["pool"]["shared_bytes"], 0u);
}

}  // namespace
}  // namespace quire
