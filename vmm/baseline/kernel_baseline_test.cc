// On a made-up host: a directory with the files that are written to.
#include "vmm/baseline/kernel_baseline.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/fake_tree.h"
#include "vmm/baseline/killed_process.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using enum KernelTuning;

constexpr KernelNeeds kNothing = {};
constexpr KernelNeeds kSwap = {.swaps = true};
constexpr KernelNeeds kLimitedSwap = {.swaps = true, .limited = true};
constexpr KernelNeeds kMerging = {.merges = true};
constexpr KernelNeeds kEverything = {.swaps = true, .limited = true, .merges = true};

class KernelBaselineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    AdoptOrphans();
    for (const char* size : {"16kB", "32kB", "64kB"}) {
      host_.Put(absl::StrCat("/sys/kernel/mm/transparent_hugepage/hugepages-", size, "/enabled"),
                "always inherit madvise [never]");
    }
    host_.Put(kTwoMiB, "always [inherit] madvise never");
    host_.Put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never");
    host_.Put("/sys/block/zram0/disksize", "0");
    host_.Put("/sys/block/zram0/comp_algorithm", "[lzo-rle] lzo lz4");
    host_.Put("/sys/block/zram0/reset", "");
    host_.Put("/sys/block/zram0/mm_stat", "  4096  1000  12288  0  20480  0  0  0  0");
    for (const char* counter : {"pages_shared", "pages_sharing", "pages_unshared", "use_zero_pages", "run"}) {
      host_.Put(Ksm(counter), "0");
    }
    host_.Put(Ksm("advisor_mode"), "none [scan-time]");
    host_.Put(Ksm("pages_to_scan"), "100");
    host_.Put(Ksm("sleep_millisecs"), "20");
    host_.Put("/proc/37/comm", "ksmd");
    host_.Put("/proc/37/cmdline", "");
    host_.MakeFolder("/sys/fs/cgroup/memory");
    host_.MakeFolder("/run/quire");
  }
  void TearDown() override { WaitForAllChildren(); }
  static std::string Ksm(const char* name) { return absl::StrCat("/sys/kernel/mm/ksm/", name); }
  std::unique_ptr<KernelBaseline> Make(const KernelNeeds& needs) {
    absl::StatusOr<std::unique_ptr<KernelBaseline>> made =
        KernelBaseline::Create(needs, ByteCount::MiB(64), host_.root());
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : nullptr;
  }
  // What it would be if the files were a kernel's: a device that is reset is of no size.
  std::map<std::string, std::string> Settings() const {
    std::map<std::string, std::string> settings = host_.Settings();
    if (std::string& reset = settings["/sys/block/zram0/reset"]; !reset.empty()) {
      settings["/sys/block/zram0/disksize"] = "0";
      reset.clear();
    }
    return settings;
  }

  static constexpr char kMthp[] = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";
  static constexpr char kTwoMiB[] = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled";
  FakeTree host_;
};

TEST_F(KernelBaselineTest, WithoutNeedsNothingIsTouched) {
  const auto before = host_.Settings();
  const auto baseline = Make(kNothing);
  ASSERT_EQ(baseline->Prepare(kAsItComes), absl::OkStatus());
  EXPECT_EQ(host_.Settings(), before);
}

TEST_F(KernelBaselineTest, SwapSpaceIsTwiceTheGuestInZramWithLz4) {
  const auto baseline = Make(kSwap);
  EXPECT_EQ(host_.Get("/sys/block/zram0/disksize"), absl::StrCat(128 << 20));
  EXPECT_EQ(host_.Get("/sys/block/zram0/comp_algorithm"), "lz4");
  EXPECT_EQ(baseline->Usage(), ByteCount::Bytes(12288)) << "mem_used_total of zram";
  EXPECT_EQ(baseline->ReadMemory().zram_stored, ByteCount::Bytes(4096));
}

TEST_F(KernelBaselineTest, ADeviceInUseIsLeftAlone) {
  host_.Put("/sys/block/zram0/disksize", "4096");
  host_.Put("/sys/block/zram1/disksize", "0");
  host_.Put("/sys/block/zram1/diskseq", "17");
  host_.Put("/sys/block/zram1/comp_algorithm", "[lzo-rle] lzo lz4");
  host_.Put("/sys/block/zram1/reset", "");
  host_.Put("/sys/block/zram1/mm_stat", "0 0 0");
  host_.Put("/sys/class/zram-control/hot_add", "1");
  host_.Put("/sys/class/zram-control/hot_remove", "");
  {
    const auto baseline = Make(kSwap);
    EXPECT_EQ(host_.Get("/sys/block/zram0/disksize"), "4096");
    EXPECT_EQ(host_.Get("/sys/block/zram1/disksize"), absl::StrCat(128 << 20));
  }
  EXPECT_EQ(host_.Get("/sys/block/zram1/reset"), "1");
  EXPECT_EQ(host_.Get("/sys/class/zram-control/hot_remove"), "1");
  EXPECT_EQ(host_.Get("/sys/block/zram0/reset"), "");
}

TEST_F(KernelBaselineTest, WhatWasChangedIsPutBackLastThingFirst) {
  const auto before = Settings();
  {
    const auto baseline = Make(kSwap);
    ASSERT_EQ(baseline->Prepare(kAtItsBest), absl::OkStatus());
    EXPECT_EQ(host_.Get(kMthp), "always");
    EXPECT_EQ(host_.Get(kTwoMiB), "always [inherit] madvise never");
    ASSERT_EQ(baseline->Prepare(kAsItComes), absl::OkStatus());
    EXPECT_EQ(host_.Get(kMthp), "never") << "the sides do not mix";
    ASSERT_EQ(baseline->Prepare(kAtItsBest), absl::OkStatus());
    ASSERT_EQ(baseline->Rest(), absl::OkStatus());
    EXPECT_EQ(host_.Get(kMthp), "never");
    ASSERT_EQ(baseline->Prepare(kAtItsBest), absl::OkStatus());
  }
  EXPECT_EQ(host_.Get("/sys/block/zram0/reset"), "1");
  EXPECT_EQ(Settings(), before);
}

TEST_F(KernelBaselineTest, WithALimitThereIsACgroupThatGoesAgain) {
  std::string group;
  {
    const auto baseline = Make(kLimitedSwap);
    group = std::filesystem::path(baseline->procs()).parent_path();
    EXPECT_TRUE(std::filesystem::is_directory(group));
    EXPECT_EQ(group, absl::StrCat(host_.root(), "/sys/fs/cgroup/memory/quire-", getpid()));
  }
  EXPECT_FALSE(std::filesystem::exists(group));
}

TEST_F(KernelBaselineTest, WithALimitPagesAreSmallOrOfManySizesButNotOf2MiB) {
  const auto baseline = Make(kLimitedSwap);
  ASSERT_EQ(baseline->Prepare(kSmallPages), absl::OkStatus());
  EXPECT_EQ(host_.Get("/sys/kernel/mm/transparent_hugepage/enabled"), "never");
  ASSERT_EQ(baseline->Prepare(kAtItsBest), absl::OkStatus());
  EXPECT_EQ(host_.Get("/sys/kernel/mm/transparent_hugepage/enabled"), "madvise");
  EXPECT_EQ(host_.Get(kTwoMiB), "never");
}

TEST_F(KernelBaselineTest, MemoryIsReadFromACgroupOfTheFirstVersion) {
  const auto baseline = Make(kLimitedSwap);
  const std::string group = absl::StrCat("/sys/fs/cgroup/memory/quire-", getpid());
  host_.Put(group + "/memory.usage_in_bytes", "50000");
  host_.Put(group + "/memory.limit_in_bytes", "0");
  host_.Put(group + "/memory.stat", "cache 9\nrss 40960\nrss_huge 8192\ntotal_rss 1");
  ASSERT_EQ(baseline->SetLimit(ByteCount::Bytes(65536)), absl::OkStatus());
  const KernelMemory memory = baseline->ReadMemory();
  EXPECT_EQ(memory.limit, ByteCount::Bytes(65536));
  EXPECT_EQ(memory.charged, ByteCount::Bytes(50000));
  EXPECT_EQ(memory.resident, ByteCount::Bytes(40960));
  EXPECT_EQ(memory.huge, ByteCount::Bytes(8192));
  EXPECT_EQ(memory.zram_used, ByteCount::Bytes(12288));
  EXPECT_EQ(memory.total(), ByteCount::Bytes(62288));
  EXPECT_EQ(baseline->OomKills(), 0u);
  host_.Put(group + "/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3");
  EXPECT_EQ(baseline->OomKills(), 3u);
  std::filesystem::remove_all(host_.Path(group));  // of a kernel's, rmdir takes the files along
}

TEST_F(KernelBaselineTest, OfCgroupsOfTheSecondVersionThereIsOneTree) {
  host_.Put("/sys/fs/cgroup/cgroup.controllers", "cpu memory");
  host_.Put("/sys/fs/cgroup/cgroup.subtree_control", "cpu");
  const std::string group = absl::StrCat("/sys/fs/cgroup/quire-", getpid());
  {
    const auto baseline = Make(kLimitedSwap);
    EXPECT_EQ(host_.Get("/sys/fs/cgroup/cgroup.subtree_control"), "+memory");
    EXPECT_EQ(baseline->procs(), host_.Path(group + "/cgroup.procs"));
    host_.Put(group + "/memory.current", "50000");
    host_.Put(group + "/memory.max", "0");
    host_.Put(group + "/memory.stat", "anon 40960\nfile 7\nanon_thp 8192");
    ASSERT_EQ(baseline->SetLimit(ByteCount::Bytes(65536)), absl::OkStatus());
    const KernelMemory memory = baseline->ReadMemory();
    EXPECT_EQ(memory.limit, ByteCount::Bytes(65536));
    EXPECT_EQ(memory.charged, ByteCount::Bytes(50000));
    EXPECT_EQ(memory.resident, ByteCount::Bytes(40960));
    EXPECT_EQ(memory.huge, ByteCount::Bytes(8192));
    host_.Put(group + "/memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2");
    EXPECT_EQ(baseline->OomKills(), 2u);
    std::filesystem::remove_all(host_.Path(group));
  }
  EXPECT_EQ(host_.Get("/sys/fs/cgroup/cgroup.subtree_control"), "-memory");
}

TEST_F(KernelBaselineTest, AControllerThatIsOnStaysOn) {
  host_.Put("/sys/fs/cgroup/cgroup.controllers", "cpu memory");
  host_.Put("/sys/fs/cgroup/cgroup.subtree_control", "cpu memory");
  { Make(kLimitedSwap); }
  EXPECT_EQ(host_.Get("/sys/fs/cgroup/cgroup.subtree_control"), "cpu memory");
}

TEST_F(KernelBaselineTest, KsmdRunsAsItComesAndAtItsBestAndStopsAgain) {
  const auto before = Settings();
  {
    const auto baseline = Make(kMerging);
    EXPECT_EQ(host_.Get(Ksm("run")), "2");
    ASSERT_EQ(baseline->Prepare(kAsItComes, /*merged=*/true), absl::OkStatus());
    EXPECT_EQ(host_.Get(Ksm("run")), "1");
    EXPECT_EQ(host_.Get(Ksm("sleep_millisecs")), "20");
    ASSERT_EQ(baseline->Prepare(kAtItsBest, /*merged=*/true), absl::OkStatus());
    EXPECT_EQ(host_.Get(Ksm("run")), "1");
    EXPECT_EQ(host_.Get(Ksm("advisor_mode")), "none");
    EXPECT_EQ(host_.Get(Ksm("sleep_millisecs")), "0");
    EXPECT_EQ(host_.Get(Ksm("use_zero_pages")), "1");
    EXPECT_FALSE(host_.Has(Ksm("smart_scan"))) << "this kernel has none";
    EXPECT_EQ(host_.Get(kMthp), "always inherit madvise [never]") << "its memory is of 4 KiB pages";
  }
  EXPECT_EQ(Settings(), before);
}

TEST_F(KernelBaselineTest, KsmdStandsStillInARunThatIsNotItsBusiness) {
  const auto baseline = Make(kEverything);
  host_.Put(Ksm("pages_shared"), "2");
  host_.Put(Ksm("pages_sharing"), "5");
  host_.Put(Ksm("ksm_zero_pages"), "1");
  ASSERT_EQ(baseline->Prepare(kAtItsBest, /*merged=*/true), absl::OkStatus());
  EXPECT_EQ(host_.Get(Ksm("run")), "1");
  EXPECT_EQ(host_.Get(kMthp), "always");
  EXPECT_EQ(baseline->ReadMemory().ksm_shared, PageCount(2).bytes());
  EXPECT_EQ(baseline->ReadMemory().ksm_sharing, PageCount(6).bytes());
  ASSERT_EQ(baseline->Prepare(kAtItsBest), absl::OkStatus());
  EXPECT_EQ(host_.Get(Ksm("run")), "2");
  EXPECT_EQ(host_.Get(Ksm("sleep_millisecs")), "20");
  EXPECT_EQ(baseline->ReadMemory().ksm_shared, ByteCount());
  ASSERT_EQ(baseline->Prepare(kAtItsBest, /*merged=*/true), absl::OkStatus());
  ASSERT_EQ(baseline->Rest(), absl::OkStatus());
  EXPECT_EQ(host_.Get(Ksm("run")), "2");
  EXPECT_EQ(host_.Get(kMthp), "never");
}

TEST_F(KernelBaselineTest, AKernelWithoutMultiSizeHugePagesSaysSo) {
  std::filesystem::remove_all(std::filesystem::path(host_.Path(kMthp)).parent_path());
  const auto baseline = Make(kSwap);
  const absl::Status status = baseline->Prepare(kAtItsBest);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no multi-size huge pages (Linux 6.8)"));
}

TEST_F(KernelBaselineTest, MemoryOfOthersInSwapSpaceIsNotCounted) {
  const HostSeams seams = {.root = host_.root(),
                           .swap = {.on = [](const char*, int) { return 0; }, .off = [](const char*) { return 0; }},
                           .patience = absl::ZeroDuration()};
  const auto baseline = KernelBaseline::Create(kSwap, ByteCount::MiB(64), seams);
  ASSERT_TRUE(baseline.ok()) << baseline.status();
  host_.Put("/sys/block/zram0/mm_stat", absl::StrCat(size_t{1} << 30, " 1000 12288"));
  const absl::Status status = (*baseline)->Prepare(kAsItComes);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("other programs have 1024 MiB of their memory"));
}

TEST_F(KernelBaselineTest, OneIsThereAtATime) {
  const auto baseline = Make(kMerging);
  const absl::Status status = KernelBaseline::Create(kSwap, ByteCount::MiB(64), host_.root()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("another process has changed settings of this host"));
}

// Whatever has been changed by then.
TEST_F(KernelBaselineTest, KilledAtAnyStepItLeavesNothing) {
  const auto before = Settings();
  int step = 0;
  for (bool killed = true; killed; ++step) {
    SCOPED_TRACE(absl::StrCat("step ", step));
    const int status = WaitForChild(StartChild([&] {
      int steps = 0;
      const HostSeams seams = {.root = host_.root(),
                               .swap = {.on = [](const char*, int) { return 0; }, .off = [](const char*) { return 0; }},
                               .at_step = [&] {
                                 if (steps++ == step) KillThisProcess();
                               }};
      const auto baseline = KernelBaseline::Create(kEverything, ByteCount::MiB(64), seams);
      if (!baseline.ok() || !(*baseline)->Prepare(kAtItsBest, /*merged=*/true).ok()) _exit(3);
      if (!(*baseline)->Prepare(kSmallPages).ok()) _exit(3);
    }));
    WaitForAllChildren();
    EXPECT_EQ(Settings(), before);
    host_.Put("/sys/block/zram0/reset", "");
    host_.Put("/sys/block/zram0/disksize", "0");
    killed = WIFSIGNALED(status);
    EXPECT_TRUE(killed || status == 0);
  }
  EXPECT_GT(step, 30);
}

TEST_F(KernelBaselineTest, KsmdThatWorksForOthersIsLeftAlone) {
  host_.Put(Ksm("run"), "1");
  host_.Put(Ksm("pages_unshared"), "7");
  const absl::Status status = KernelBaseline::Create(kMerging, ByteCount::MiB(64), host_.root()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("memory of other programs"));
  EXPECT_EQ(host_.Get(Ksm("run")), "1");
}

TEST_F(KernelBaselineTest, AHostWithoutKsmSaysSo) {
  std::filesystem::remove_all(host_.Path("/sys/kernel/mm/ksm"));
  const absl::Status status = KernelBaseline::Create(kMerging, ByteCount::MiB(64), host_.root()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no ksmd to compare with"));
}

TEST_F(KernelBaselineTest, AHostWithoutZramSaysSo) {
  std::filesystem::remove_all(host_.Path("/sys/block/zram0"));
  const absl::Status status = KernelBaseline::Create(kSwap, ByteCount::MiB(64), host_.root()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no swap space in zram"));
}

}  // namespace
}  // namespace quire
