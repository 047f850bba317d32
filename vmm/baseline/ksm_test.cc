// On a made-up host: a directory with the files that are read.
#include "vmm/baseline/ksm.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

class KsmTest : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void PutCounter(const std::string& name, uint64_t value) {
    Put(absl::StrCat(kKsmDirectory, "/", name), absl::StrCat(value, "\n"));
  }

  const std::string root_ = absl::StrCat(::testing::TempDir(), "/ksm-", getpid());
};

TEST_F(KsmTest, PagesOfZerosAreSavedBesideThoseThatShare) {
  PutCounter("pages_sharing", 700);
  PutCounter("pages_shared", 10);
  PutCounter("pages_unshared", 90);
  PutCounter("ksm_zero_pages", 300);
  PutCounter("pages_scanned", 5000);
  PutCounter("pages_skipped", 40);
  PutCounter("full_scans", 2);
  const absl::StatusOr<KsmCounters> counters = ReadKsmCounters(root_);
  ASSERT_TRUE(counters.ok()) << counters.status();
  EXPECT_EQ(counters->saved(), PageCount(1000));
  EXPECT_EQ(counters->shared, PageCount(10));
  EXPECT_EQ(counters->unshared, PageCount(90));
  EXPECT_EQ(counters->scanned, 5000u);
  EXPECT_EQ(counters->skipped, 40u);
  EXPECT_EQ(counters->passes, 2u);
}

TEST_F(KsmTest, AnOlderKernelHasFewerCounters) {
  PutCounter("pages_sharing", 700);
  EXPECT_EQ(ReadKsmCounters(root_)->saved(), PageCount(700));
}

TEST_F(KsmTest, AHostWithoutItSaysSo) {
  EXPECT_EQ(ReadKsmCounters(root_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(FindKsmdSchedstat(root_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(KsmTest, KsmdIsTheOneWithoutACommandLine) {
  Put("/proc/self/comm", "ksmd\n");
  Put("/proc/12/comm", "ksmd\n");
  Put("/proc/12/cmdline", std::string("./ksmd\0", 7));
  Put("/proc/30/comm", "kswapd0\n");
  Put("/proc/30/cmdline", "");
  EXPECT_EQ(FindKsmdSchedstat(root_).status().code(), absl::StatusCode::kNotFound);
  Put("/proc/37/comm", "ksmd\n");
  Put("/proc/37/cmdline", "");
  Put("/proc/37/schedstat", "1500000 20 3\n");
  const absl::StatusOr<std::string> found = FindKsmdSchedstat(root_);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, root_ + "/proc/37/schedstat");
  EXPECT_EQ(*ReadRunTime(*found), absl::Microseconds(1500));
}

TEST(RunTimeTest, IsTheFirstOfThreeNumbers) {
  EXPECT_EQ(*ParseRunTime("92882 6919784 19"), absl::Nanoseconds(92882));
  for (const char* text : {"", "1", "1 2", "1 2 3 4", "x 2 3", "-1 2 3", "1.5 2 3"}) {
    EXPECT_EQ(ParseRunTime(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace quire
