// What Linux guests do not need comes back to the pool: by the balloon, by reports of free pages, by merging. None of
// it is compressed or merged away meanwhile where that is not what is looked at: the pool has room for all.

#include <signal.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"

namespace quire {
namespace {

// Guests that are talked to while they run.
class LinuxMemoryTest : public LinuxWorkTest {
 protected:
  std::vector<std::string> LiveWords(const std::string& work, int guests, const std::vector<std::string>& more) {
    std::vector<std::string> words = Unpacked(Words(kSeries, work, guests, more));
    words.push_back("--json=" + report_path());
    return words;
  }

  // What is said and reported of one guest on a terminal, once it has ended.
  Outcome EndOf(QuireProcess& quire) {
    Outcome outcome;
    outcome.status = quire.Wait();
    outcome.said = quire.said();
    outcome.report = ReadReport();
    outcome.consoles = {outcome.said};
    return outcome;
  }
};

TEST_F(LinuxMemoryTest, TheBalloonTakesMemoryAndGivesItBack) {
  constexpr double kUsedMib = 114, kBalloonMib = 112;  // half of the guest's memory
  QuireProcess quire(LiveWords(absl::StrCat("balloon:400,balloon:400:", kUsedMib), /*guests=*/1,
                               {"--memory=224M", "--pool=512M", "--merge=off", "--console=terminal"}),
                     kWorkLimit, QuireProcess::Streams::kTerminal);
  ASSERT_TRUE(quire.AwaitSaid("work=balloon:400")) << quire.said();
  // While a guest reports what is free since it booted, 64 MiB at a time are not to be had (PAGE_REPORTING_CAPACITY),
  // and a program that wants them is killed. Some free memory is never reported: what lies scattered, and below 16 MiB.
  constexpr double kNeverReportedMib = 32;
  BalloonState before, now;
  ASSERT_TRUE(quire.Await([&] {
    return AskBalloon(0, now) && now.free_mib > 0 && now.reported_mib >= now.free_mib - kNeverReportedMib;
  })) << now.reported_mib
      << " MiB were reported, and " << now.free_mib << " MiB are free:\n"
      << quire.said();
  quire.Type("\r");
  ASSERT_TRUE(quire.AwaitSaid("scattered=")) << quire.said();
  ASSERT_TRUE(AskBalloon(0, before));
  ASSERT_GT(before.pool_mib, kUsedMib * 0.9) << "so much has been used, and too little is in the pool to be taken";

  const absl::Time inflated = absl::Now();
  const ToolOutcome told = RunTool({"balloon", "--guest=0", absl::StrCat("--size=", kBalloonMib, "M")});
  EXPECT_EQ(told.status, 0) << told.said;
  ASSERT_TRUE(quire.Await([&] {
    return AskBalloon(0, now) && now.actual_mib == kBalloonMib && now.pool_mib <= before.pool_mib - kBalloonMib * 0.9;
  })) << "the balloon has "
      << now.actual_mib << " MiB, and the pool's use went from " << before.pool_mib << " to " << now.pool_mib
      << " MiB:\n"
      << quire.said();
  std::printf("A balloon of %.0f MiB took %.1f s to inflate, and the pool's use fell from %.0f to %.0f MiB.\n",
              kBalloonMib, absl::ToDoubleSeconds(absl::Now() - inflated), before.pool_mib, now.pool_mib);

  EXPECT_EQ(RunTool({"balloon", "--guest=0", "--size=0"}).status, 0);
  ASSERT_TRUE(quire.Await([&] { return AskBalloon(0, now) && now.actual_mib == 0; })) << quire.said();
  // It uses all of it again.
  quire.Type("\r");
  const Outcome outcome = EndOf(quire);
  ExpectGoodGuests(outcome);
  EXPECT_EQ(outcome.report["guests"][0]["balloon_bytes"], 0);
  EXPECT_EQ(outcome.report["guests"][0]["failed_devices"], nlohmann::json::array());
}

// A guest of half a gigabyte or less has no huge pages (Linux's hugepage_init). What it frees lies scattered for a
// while, about pages that its kernel keeps at hand, and Linux reports free what is free by 2 MiB.
TEST_F(LinuxMemoryTest, FreedMemoryIsGivenBackUnasked) {
  // What the guest needs besides may grow meanwhile, and comes and goes by 2 MiB: 228 MiB of the 256 were seen to come
  // back.
  constexpr double kFreedMib = 256, kNearlyMib = 0.8 * kFreedMib;
  QuireProcess quire(LiveWords(absl::StrCat("balloon:400,free:", kFreedMib, ":400"), /*guests=*/1,
                               {"--memory=640M", "--pool=768M", "--merge=off", "--console=terminal"}),
                     kWorkLimit, QuireProcess::Streams::kTerminal);
  ASSERT_TRUE(quire.AwaitSaid("work=balloon:400")) << quire.said();
  BalloonState before, now;
  ASSERT_TRUE(AskBalloon(0, before));
  ASSERT_LT(before.peak_mib, kNearlyMib) << "a boot takes so much that what is filled later would not show";
  quire.Type("\r");
  ASSERT_TRUE(quire.AwaitSaid("mem_free_after_kib=")) << quire.said();
  ASSERT_TRUE(quire.Await([&] {
    return AskBalloon(0, now) && now.pool_mib <= now.peak_mib - kNearlyMib &&
           now.reported_mib >= before.reported_mib + kNearlyMib;
  })) << "of "
      << now.peak_mib << " MiB of the pool " << now.pool_mib << " MiB are in use after "
      << now.reported_mib - before.reported_mib << " MiB were reported:\n"
      << quire.said();
  quire.Type("\r");
  const Outcome outcome = EndOf(quire);
  ExpectGoodGuests(outcome);
  EXPECT_GE(outcome.report["guests"][0]["reported_bytes"].get<double>() / (1 << 20), kNearlyMib);
  std::printf("A guest filled and freed %.0f MiB: the pool's use rose from %.0f to %.0f MiB, and fell to %.0f MiB.\n",
              kFreedMib, before.pool_mib, now.peak_mib, now.pool_mib);
}

class LinuxMergeTest : public LinuxMemoryTest {
 protected:
  static constexpr absl::Duration kBetweenLooks = absl::Seconds(1);
  static constexpr int kLooks = 5;

  // Two guests that have booted and do nothing. Returns what of the pool is in use when no MiB of it comes or goes any
  // more, but not before there is less than `less_than_mib`.
  double PoolMibOfTwoIdleGuests(const std::string& merge, double less_than_mib) {
    QuireProcess quire(
        LiveWords("idle:400", /*guests=*/2, {"--memory=256M", "--pool=512M", "--merge=" + merge, "--console=lines"}),
        kWorkLimit);
    for (const char* ready : {"guest-0: quire: work=idle", "guest-1: quire: work=idle"}) {
      EXPECT_TRUE(quire.AwaitSaid(ready)) << quire.said();
    }
    double used = 0;
    int same = 0;
    EXPECT_TRUE(quire.Await([&] {
      BalloonState now;
      if (!AskBalloon(0, now)) return false;
      same = std::abs(now.pool_mib - used) < 1 ? same + 1 : 0;
      used = now.pool_mib;
      if (same >= kLooks && used < less_than_mib) return true;
      absl::SleepFor(kBetweenLooks);
      return false;
    })) << "with --merge="
        << merge << " the pool's use was " << used << " MiB in the end";
    quire.Signal(SIGTERM);
    EXPECT_EQ(quire.Wait(), -SIGTERM) << quire.said();
    const nlohmann::json report = ReadReport();
    for (const auto& guest : report["guests"]) EXPECT_EQ(guest["console"]["boot"], "ok") << quire.said();
    return used;
  }
};

TEST_F(LinuxMergeTest, TwoIdleGuestsTakeLessMemoryWhenTheyAreMerged) {
  const double separate = PoolMibOfTwoIdleGuests("off", /*less_than_mib=*/512);
  if (HasFailure()) return;
  // Of the kernel alone, which is the same in both, there are some 30 MiB.
  const double merged = PoolMibOfTwoIdleGuests("on", separate - 8);
  std::printf("Two idle guests take %.0f MiB of the pool, and %.0f MiB with merging: %.0f %% less.\n", separate, merged,
              100 * (separate - merged) / separate);
}

}  // namespace
}  // namespace quire
