// Whole runs of clones, on software vCPUs and under KVM: each goes on from where the guest was frozen, and nobody reads
// a wrong byte.
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

constexpr int kClones = 6;

class CloneRunTest : public AccelRunTest {
 protected:
  static RunOptions Options() {
    RunOptions options;
    options.accel = kAccel;
    options.guests = 1;
    options.clones = kClones;
    options.vcpus = 2;
    options.memory = ByteCount::MiB(16);
    options.pool = ByteCount::MiB(128);
    // Ended by the watch or by themselves, however slow the machine or the sanitizer.
    options.duration = absl::Minutes(15);
    return options;
  }
  static void ExpectGoodClones(const ChildRun& run) {
    ExpectRightBytes(run);
    ASSERT_EQ(run.report["guests"].size(), kClones + 1u);
    EXPECT_EQ(run.report["clones"]["count"], kClones);
    EXPECT_GT(run.report["clones"]["freeze_gib_per_second"], 0.0);
  }
};

// A vCPU that began anew would find its memory filled already, and a page that another clone wrote another version.
TEST_F(CloneRunTest, ClonesGoOnFromTheTemplatesMemoryAndWriteTheirOwn) {
  RunOptions options = Options();
  options.workload = "random:writes=0.05,operations=4000";
  const ChildRun run = RunInChild(options);
  ExpectGoodClones(run);
  EXPECT_EQ(run.report["guests"][0]["operations"], 0u) << "the template ended where it was frozen";
  for (int clone = 1; clone <= kClones; ++clone) EXPECT_EQ(run.report["guests"][clone]["operations"], 4000u);
  EXPECT_GT(run.report["faults"]["unshare"], 0u);
}

TEST_F(CloneRunTest, ClonesThatOnlyReadTakeNoMemoryOfTheirOwn) {
  RunOptions options = Options();
  options.workload = "random:writes=0,operations=6000";
  const ChildRun run = RunInChild(options);
  ExpectGoodClones(run);
  EXPECT_GT(run.report["faults"]["inherited"], 0u);
  if (kAccel == Accel::kSoft) {
    EXPECT_LE(run.report["pool"]["peak_bytes"], ByteCount::MiB(24).in_bytes()) << "one guest's, and tables";
  }
}

TEST_F(CloneRunTest, AFamilyRunsInLessMemoryThanItWrites) {
  RunOptions options = Options();
  options.pool = ByteCount::MiB(56);
  options.workload = "zipf:writes=0.5";
  const ChildRun run = RunInChild(options, [](const Snapshot& snapshot) {
    uint64_t least = snapshot.guests.size() > 1 ? ~uint64_t{0} : 0;
    for (size_t i = 1; i < snapshot.guests.size(); ++i) least = std::min(least, snapshot.guests[i].operations);
    return least >= 10'000 || AnyIsStopped(snapshot);
  });
  ExpectGoodClones(run);
  EXPECT_GT(run.report["swap"]["pages_in"], 0u);
}

}  // namespace
}  // namespace quire
