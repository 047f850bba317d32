// Boots Debian's kernels as guests, with the real program, in the laboratory. They say over their consoles how it went
// (tools/lab/guest/init).

#include <string>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"

namespace quire {
namespace {

using Boot = std::tuple<const char*, int>;  // kernel series, vCPUs

class LinuxBootTest : public LinuxGuestTest, public testing::WithParamInterface<Boot> {};

TEST_P(LinuxBootTest, BootsAndPowersOff) {
  const auto [series, vcpus] = GetParam();
  if (!IsThere(series)) GTEST_SKIP() << "there is no " << GuestFile(series, "vmlinuz");
  const Outcome outcome =
      Run(series, "", /*guests=*/1, kBootLimit, {absl::StrCat("--vcpus=", vcpus), "--memory=512M", "--pool=768M"});
  ExpectGoodGuests(outcome);
  EXPECT_EQ(outcome.report["guests"][0]["ended"], "power off");
  const ConsoleReport said = ReportOf(outcome.consoles[0]);
  EXPECT_EQ(said.Get("cpus"), absl::StrCat(vcpus));
  EXPECT_TRUE(absl::StartsWith(said.Get("kernel"), absl::StrCat(series, "."))) << said.Get("kernel");
}

// "Linux6_12With4Vcpus".
std::string BootName(const testing::TestParamInfo<Boot>& info) {
  const auto [series, vcpus] = info.param;
  return absl::StrCat("Linux", absl::StrReplaceAll(series, {{".", "_"}}), "With", vcpus, "Vcpus");
}

INSTANTIATE_TEST_SUITE_P(Kernels, LinuxBootTest,
                         testing::Combine(testing::Values("6.1", "6.12"), testing::Values(1, 2, 4)), BootName);

TEST_F(LinuxWorkTest, AResetEndsTheRun) {
  const Outcome outcome =
      RunToEnd(Unpacked(Words(kSeries, " quire.end=reboot", /*guests=*/1, {"--memory=512M", "--pool=768M"})),
               /*guests=*/1, kBootLimit);
  ExpectGoodGuests(outcome);
  EXPECT_EQ(outcome.report["guests"][0]["ended"], "reset");
  EXPECT_EQ(outcome.report["guests"][0]["exit"], "ok");
  EXPECT_THAT(outcome.said, testing::HasSubstr("guest-0 reset itself"));
}

TEST_F(LinuxWorkTest, TwoGuestsFindTheirMemoryRightInLessThanTheyHave) {
  const Outcome outcome =
      Run(kSeries, "all:96:1", /*guests=*/2, kWorkLimit, {"--vcpus=2", "--memory=512M", "--pool=384M"});
  ExpectGoodGuests(outcome);
  for (const std::string& console : outcome.consoles) EXPECT_NE(ReportOf(console).Get("checked"), "0");
  ASSERT_TRUE(outcome.report.is_object());
  EXPECT_GT(outcome.report["swap"]["pages_out"], 0u) << "there was no pressure, so this proves nothing";
  EXPECT_GT(outcome.report["merge"]["merged_pages"], 0u);
  EXPECT_GT(outcome.report["huge"]["whole_faults"], 0u);
}

}  // namespace
}  // namespace quire
