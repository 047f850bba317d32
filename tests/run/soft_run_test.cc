// Whole runs with software vCPUs, unprivileged.

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/huge/compaction_mode.h"
#include "tests/run/expect_good_run.h"
#include "tests/run/run_in_child.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

// What a run does is enough after a quarter of it where each access takes twenty times as long.
#ifdef __SANITIZE_THREAD__
constexpr uint64_t kSlow = 4;
#else
constexpr uint64_t kSlow = 1;
#endif
std::string Operations(uint64_t count) { return absl::StrCat("operations=", count / kSlow); }

RunOptions Options() {
  RunOptions options;
  options.accel = Accel::kSoft;
  options.guests = 4;
  options.memory = ByteCount::MiB(64);
  options.pool = ByteCount::MiB(128);
  // Ended by its operations, however slow the machine or the sanitizer.
  options.duration = absl::Minutes(10);
  options.workload = "zipf:" + Operations(100'000);
  return options;
}

TEST(SoftRunTest, GuestsRunCorrectlyInHalfOfTheirMemory) {
  const RunOptions options = Options();
  ExpectGoodRun(options, RunInChild(options));
}

TEST(SoftRunTest, GuestsRunCorrectlyWithinTheirOwnLimits) {
  RunOptions options = Options();
  options.vcpus = 2;
  options.pool = ByteCount::MiB(192);
  options.guest_pool_limit = ByteCount::MiB(20);
  options.workload = "zipf:" + Operations(40'000);
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  for (const nlohmann::json& guest : run.report["guests"]) {
    EXPECT_LE(guest["peak_resident_bytes"], options.guest_pool_limit->in_bytes());
    EXPECT_GT(guest["peak_resident_bytes"], options.guest_pool_limit->in_bytes() / 2);
    EXPECT_GT(guest["peak_swapped_bytes"], 0u);
    EXPECT_EQ(guest["pool_limit_bytes"], options.guest_pool_limit->in_bytes());
    EXPECT_EQ(guest["swap_limit_bytes"], 0u);
  }
  EXPECT_GT(run.report["faults"]["limit_reclaims"], 0u);
}

TEST(SoftRunTest, AGuestThatDoesNotFitItsLimitIsStoppedAndSaysSo) {
  RunOptions options = Options();
  options.guests = 1;
  options.pool = ByteCount::MiB(128);
  options.guest_pool_limit = ByteCount::MiB(16);
  options.compressibility = 1;
  const ChildRun run = RunInChild(options);
  EXPECT_EQ(run.status, 4);
  const std::string exit = run.report["guests"][0]["exit"];
  EXPECT_THAT(exit, HasSubstr("guest-0 is at its limit of 16 MiB"));
  EXPECT_THAT(exit, HasSubstr("--guest_pool_limit"));
}

TEST(SoftRunTest, GuestsWireAShareOfTheirMemoryAsFarAsTheyMay) {
  RunOptions options = Options();
  options.workload = "random:wired=0.1," + Operations(20'000);
  const ChildRun few = RunInChild(options);
  ExpectGoodRun(options, few);
  EXPECT_EQ(few.report["pool"]["wirings_refused"], 0u);
  EXPECT_GT(few.report["swap"]["refused_wired"], 0u);

  // Half of the pool has room for less.
  options.guests = 1;
  options.pool = ByteCount::MiB(48);
  options.workload = "random:wired=0.5," + Operations(20'000);
  const ChildRun many = RunInChild(options);
  ExpectGoodRun(options, many);
  EXPECT_EQ(many.report["pool"]["wirings_refused"], 1u);
  EXPECT_EQ(many.report["swap"]["refused_wired"], 0u);
}

TEST(SoftRunTest, EveryWorkloadRunsCorrectlyUnderPressure) {
  for (const char* workload : {"touch:", "random:", "zipf:scatter=1,", "phases:period=1000,", "scan:"}) {
    SCOPED_TRACE(workload);
    RunOptions options = Options();
    options.guests = 2;
    options.vcpus = 2;
    options.pool = ByteCount::MiB(64);
    options.workload = workload + Operations(20'000);
    ExpectGoodRun(options, RunInChild(options));
  }
}

TEST(SoftRunTest, WholeBlocksAreMadeByMovingPagesUnlessThatIsOff) {
  RunOptions options = Options();
  options.guests = 2;
  options.pool = ByteCount::MiB(64);
  options.huge = Huge::kAlways;
  options.workload = absl::StrCat("phases:period=", 20'000 / kSlow, ",", Operations(200'000));
  for (const CompactionMode mode : {CompactionMode::kFault, CompactionMode::kBackground}) {
    SCOPED_TRACE(std::string(Name(mode)));
    options.defrag = mode;
    const ChildRun run = RunInChild(options);
    ExpectGoodRun(options, run);
    EXPECT_GT(run.report["huge"]["migrated_pages"], 0u);
    EXPECT_GT(run.report["huge"]["compactions"], 0u);
  }
  options.defrag = CompactionMode::kOff;
  const ChildRun off = RunInChild(options);
  ExpectGoodRun(options, off);
  EXPECT_EQ(off.report["huge"]["migrated_pages"], 0u);
}

// Without pressure each block that may be whole comes in once, by its first touch, and stays.
TEST(SoftRunTest, WholeBlocksComeWhereGuestsAskForThem) {
  RunOptions options = Options();
  options.guests = 2;
  options.vcpus = 2;
  options.pool = ByteCount::MiB(256);
  const uint64_t blocks = options.all_memory().in_bytes() / kBlockSize;
  const auto whole_blocks = [&](Huge huge, const char* advise) {
    options.huge = huge;
    options.workload = absl::StrCat("touch:operations=40000,advise=", advise);
    const ChildRun run = RunInChild(options);
    EXPECT_EQ(run.status, 0);
    // Nothing else is mapped whole. A guest that has ended before the others has no mappings any more.
    EXPECT_LE(run.report["huge"]["blocks_mapped"], run.report["huge"]["whole_faults"]);
    EXPECT_EQ(run.report["huge"]["promotions"], 0u);
    return run.report["huge"]["whole_faults"].get<uint64_t>();
  };
  EXPECT_EQ(whole_blocks(Huge::kAdvise, "0"), 0u);
  EXPECT_EQ(whole_blocks(Huge::kAdvise, "0.5"), blocks / 2);
  EXPECT_EQ(whole_blocks(Huge::kAdvise, "1"), blocks);
  EXPECT_EQ(whole_blocks(Huge::kAlways, "0"), blocks);
  EXPECT_EQ(whole_blocks(Huge::kNever, "1"), 0u);
}

TEST(SoftRunTest, GuestsThatAskForWholeBlocksInPartOfTheirMemoryRunCorrectlyUnderPressure) {
  RunOptions options = Options();
  options.huge = Huge::kAdvise;
  options.workload = "scan:advise=0.5," + Operations(100'000);
  ExpectGoodRun(options, RunInChild(options));
}

TEST(SoftRunTest, APoolTooSmallForTheContentEndsInOutOfMemoryAndNamesTheGuest) {
  RunOptions options = Options();
  options.guests = 1;
  options.pool = ByteCount::MiB(32);
  options.compressibility = 1;
  const ChildRun run = RunInChild(options);
  EXPECT_EQ(run.status, 4);
  const std::string exit = run.report["guests"][0]["exit"];
  EXPECT_THAT(exit, HasSubstr("the pool's limit of 32 MiB is reached"));
  EXPECT_THAT(exit, HasSubstr("guest-0"));
  EXPECT_THAT(exit, HasSubstr("--pool"));
}

TEST(SoftRunTest, StoppingOneGuestSavesTheOthers) {
#ifdef __SANITIZE_THREAD__
  // The guests live on the few zero pages among what does not compress, and are too slow here to use those up in time.
  GTEST_SKIP() << "ThreadSanitizer is too slow; MemoryManagerTest shows the same there";
#endif
  RunOptions options = Options();
  options.guests = 3;
  options.memory = ByteCount::MiB(32);
  options.pool = ByteCount::MiB(86);  // enough for two of them
  // Guests that do not end by themselves: one that did would leave its memory to the others.
  options.workload = "zipf";
  options.duration = absl::Minutes(10);
  options.compressibility = 1;
  const ChildRun run = RunInChild(options, AnyIsStopped);
  EXPECT_EQ(run.status, 4);
  int alive = 0;
  for (const nlohmann::json& guest : run.report["guests"]) {
    EXPECT_EQ(guest["mismatched_pages"], 0u);
    alive += guest["exit"] == "ok" ? 1 : 0;
  }
  EXPECT_EQ(alive, 2);
}

TEST(SoftRunTest, TheHostKernelsMemoryServesForComparison) {
  RunOptions options = Options();
  options.engine = Engine::kKernel;
  options.guests = 1;
  for (const Huge huge : {Huge::kAlways, Huge::kAdvise}) {
    options.huge = huge;
    const ChildRun run = RunInChild(options);
    EXPECT_EQ(run.status, 0);
    EXPECT_EQ(run.report["engine"], "kernel");
    EXPECT_EQ(run.report["guests"][0]["mismatched_pages"], 0u);
    EXPECT_EQ(run.report["faults"]["total"], 0u);
  }
}

}  // namespace
}  // namespace quire
