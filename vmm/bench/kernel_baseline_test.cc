// On a made-up host: a directory with the files that are written to.
#include "vmm/bench/kernel_baseline.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/bench/host_settings.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class KernelBaselineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* size : {"16kB", "32kB", "64kB"}) {
      Put(absl::StrCat("/sys/kernel/mm/transparent_hugepage/hugepages-", size, "/enabled"),
          "always inherit madvise [never]");
    }
    Put("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled", "always [inherit] madvise never");
    Put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never");
    Put("/sys/block/zram0/disksize", "0");
    Put("/sys/block/zram0/comp_algorithm", "[lzo-rle] lzo lz4");
    Put("/sys/block/zram0/reset", "");
    Put("/sys/block/zram0/mm_stat", "  4096  1000  12288  0  20480  0  0  0  0");
    for (const char* counter : {"pages_shared", "pages_sharing", "pages_unshared", "use_zero_pages", "run"}) {
      Put(Ksm(counter), "0");
    }
    Put(Ksm("advisor_mode"), "none [scan-time]");
    Put(Ksm("pages_to_scan"), "100");
    Put(Ksm("sleep_millisecs"), "20");
    Put("/proc/37/comm", "ksmd");
    Put("/proc/37/cmdline", "");
    std::filesystem::create_directories(root_ + "/sys/fs/cgroup/memory");
  }
  static std::string Ksm(const char* name) { return absl::StrCat("/sys/kernel/mm/ksm/", name); }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << "\n";
  }
  // What was written last over the file's beginning, as sysfs would have it.
  std::string Get(const std::string& path) { return ReadSetting(root_ + path).value(); }
  std::unique_ptr<KernelBaseline> Make(absl::string_view benchmark) {
    absl::StatusOr<std::unique_ptr<KernelBaseline>> made =
        KernelBaseline::Create(*FindBenchmark(benchmark), ByteCount::MiB(64), root_);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : nullptr;
  }

  const std::string root_ = absl::StrCat(::testing::TempDir(), "/host-", getpid());
  const std::string mthp_ = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";
};

TEST_F(KernelBaselineTest, ABenchmarkWithoutSwapTouchesNothing) {
  Make("touch");
  EXPECT_EQ(Get("/sys/block/zram0/disksize"), "0");
  EXPECT_EQ(Get("/sys/block/zram0/comp_algorithm"), "[lzo-rle] lzo lz4");
}

TEST_F(KernelBaselineTest, SwapSpaceIsTwiceTheGuestInZramWithLz4) {
  const auto baseline = Make("refault-dense");
  EXPECT_THAT(Get("/sys/block/zram0/disksize"), HasSubstr(absl::StrCat(128 << 20)));
  EXPECT_EQ(Get("/sys/block/zram0/comp_algorithm").substr(0, 3), "lz4");
  EXPECT_EQ(baseline->Usage(), ByteCount::Bytes(12288)) << "mem_used_total of zram";
}

TEST_F(KernelBaselineTest, WhatWasChangedIsPutBackLastThingFirst) {
  {
    const auto baseline = Make("refault-dense");
    ASSERT_EQ(baseline->Prepare(Side::kKernelBest), absl::OkStatus());
    EXPECT_EQ(Get(mthp_).substr(0, 6), "always");
    ASSERT_EQ(baseline->Prepare(Side::kKernel), absl::OkStatus());
    EXPECT_EQ(Get(mthp_).substr(0, 5), "never") << "the sides do not mix";
    ASSERT_EQ(baseline->Prepare(Side::kKernelBest), absl::OkStatus());
  }
  EXPECT_EQ(Get(mthp_).substr(0, 5), "never");
  EXPECT_EQ(Get("/sys/block/zram0/reset").substr(0, 1), "1");
  EXPECT_EQ(Get("/sys/block/zram0/comp_algorithm").substr(0, 7), "lzo-rle");
}

TEST_F(KernelBaselineTest, WithALimitThereIsACgroupThatGoesAgain) {
  std::string group;
  {
    const auto baseline = Make("overcommit");
    group = std::filesystem::path(baseline->procs()).parent_path();
    EXPECT_TRUE(std::filesystem::is_directory(group));
    EXPECT_EQ(group.rfind(root_ + "/sys/fs/cgroup/memory/", 0), 0u) << group;
  }
  EXPECT_FALSE(std::filesystem::exists(group));
}

TEST_F(KernelBaselineTest, OfCgroupsOfTheSecondVersionThereIsOneTree) {
  Put("/sys/fs/cgroup/cgroup.controllers", "cpu memory");
  Put("/sys/fs/cgroup/cgroup.subtree_control", "");
  const auto baseline = Make("overcommit");
  EXPECT_EQ(Get("/sys/fs/cgroup/cgroup.subtree_control").substr(0, 7), "+memory");
  EXPECT_EQ(std::filesystem::path(baseline->procs()).parent_path().parent_path(), root_ + "/sys/fs/cgroup");
}

TEST_F(KernelBaselineTest, KsmdRunsAsItComesAndAtItsBestAndStopsAgain) {
  {
    const auto baseline = Make("merge-scan");
    EXPECT_EQ(Get(Ksm("run")).substr(0, 1), "2");
    ASSERT_EQ(baseline->Prepare(Side::kKernel), absl::OkStatus());
    EXPECT_EQ(Get(Ksm("run")).substr(0, 1), "1");
    EXPECT_EQ(Get(Ksm("sleep_millisecs")), "20");
    ASSERT_EQ(baseline->Prepare(Side::kKernelBest), absl::OkStatus());
    EXPECT_EQ(Get(Ksm("advisor_mode")).substr(0, 4), "none");
    EXPECT_EQ(Get(Ksm("sleep_millisecs")).substr(0, 1), "0");
    EXPECT_EQ(Get(Ksm("use_zero_pages")).substr(0, 1), "1");
    EXPECT_FALSE(std::filesystem::exists(root_ + Ksm("smart_scan"))) << "this kernel has none";
  }
  EXPECT_EQ(Get(Ksm("run")).substr(0, 1), "0");
  EXPECT_EQ(Get(Ksm("advisor_mode")).substr(0, 9), "scan-time");
  EXPECT_EQ(Get(Ksm("pages_to_scan")).substr(0, 3), "100");
  EXPECT_EQ(Get(Ksm("sleep_millisecs")).substr(0, 2), "20");
  EXPECT_EQ(Get(Ksm("use_zero_pages")).substr(0, 1), "0");
}

TEST_F(KernelBaselineTest, KsmdThatWorksForOthersIsLeftAlone) {
  Put(Ksm("run"), "1");
  Put(Ksm("pages_unshared"), "7");
  const absl::Status status = KernelBaseline::Create(*FindBenchmark("merge-scan"), ByteCount::MiB(64), root_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("memory of other programs"));
  EXPECT_EQ(Get(Ksm("run")), "1");
}

TEST_F(KernelBaselineTest, AHostWithoutKsmSaysSo) {
  std::filesystem::remove_all(root_ + "/sys/kernel/mm/ksm");
  const absl::Status status = KernelBaseline::Create(*FindBenchmark("merge-scan"), ByteCount::MiB(64), root_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no ksmd to compare with"));
}

TEST_F(KernelBaselineTest, AHostWithoutZramSaysSo) {
  std::filesystem::remove_all(root_ + "/sys/block/zram0");
  const absl::Status status =
      KernelBaseline::Create(*FindBenchmark("refault-dense"), ByteCount::MiB(64), root_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no swap space in zram"));
}

TEST(HostSettingsTest, TheChosenOneIsInBrackets) {
  EXPECT_EQ(ChosenOf("always [madvise] never"), "madvise");
  EXPECT_EQ(ChosenOf("lz4"), "lz4");
  EXPECT_EQ(ChosenOf("[broken"), "[broken");
}

}  // namespace
}  // namespace quire
