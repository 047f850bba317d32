// A frame of a run fails: the guest that has it is told, and no other.
#include <string>

#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/run/accel_run_test.h"
#include "tests/run/run_in_child.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class PoisonRunTest : public AccelRunTest {
 protected:
  static RunOptions Options() {
    RunOptions options;
    options.accel = kAccel;
    options.guests = 2;
    options.memory = ByteCount::MiB(16);
    options.pool = ByteCount::MiB(64);
    options.merge = Merge::kOff;
    options.workload = "random";
    // Ended by the watch, however slow the machine or the sanitizer.
    options.duration = absl::Minutes(15);
    return options;
  }
  static bool AllAreRunning(const Snapshot& snapshot) {
    for (const GuestSnapshot& guest : snapshot.guests) {
      if (guest.state != GuestSnapshot::State::kRunning) return false;
    }
    return true;
  }
};

TEST_F(PoisonRunTest, TheGuestThatTouchesTheLostPageIsStoppedAndTheOtherGoesOn) {
  const SocketDirectory directory;
  RunOptions options = Options();
  options.control = directory.socket();
  bool poisoned = false;
  const ChildRun run = RunInChild(options, [&](const Snapshot& snapshot) {
    // Any page but the lowest, which a guest under KVM may never touch again.
    for (uint64_t gfn = 1000; !poisoned && AllAreRunning(snapshot) && gfn < 1100; ++gfn) {
      poisoned = AskRun(*options.control, {.command = ControlRequest::Command::kPoison, .guest = "0", .gfn = gfn}).ok();
    }
    return AnyIsStopped(snapshot);
  });
  EXPECT_EQ(run.status, 1);
  const std::string exit = run.report["guests"][0]["exit"];
  EXPECT_THAT(exit, HasSubstr("of guest-0 is lost: the memory that held it has failed"));
  EXPECT_EQ(run.report["guests"][1]["exit"], "ok");
  for (const nlohmann::json& guest : run.report["guests"]) EXPECT_EQ(guest["mismatched_pages"], 0u);
  EXPECT_EQ(run.report["pool"]["poisoned_bytes"], kPageSize);
}

}  // namespace
}  // namespace quire
