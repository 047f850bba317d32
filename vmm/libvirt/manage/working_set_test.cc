#include "vmm/libvirt/manage/working_set.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/manage/observation.h"

namespace quire {
namespace {

constexpr ByteCount kAll = ByteCount::MiB(1024), kKernels = ByteCount::MiB(24);

absl::Time TimeAt(int64_t second) { return absl::FromUnixSeconds(1'700'000'000 + second); }
MonotonicTime MonotonicAt(int64_t second) { return MonotonicTime::FromNanoseconds(second * 1'000'000'000); }

// A guest that has so much and uses so much of it.
DomainObservation Guest(int64_t second, uint64_t has, uint64_t uses) {
  return {.name = "guest",
          .memory = {.maximum = kAll, .current = ByteCount::MiB(has)},
          .stats = {.swap_in = ByteCount(),
                    .major_faults = 0,
                    .available = ByteCount::MiB(has) - kKernels,
                    .usable = ByteCount::MiB(has - uses),
                    .updated = TimeAt(second)}};
}

// Feeds it with the same for so many seconds.
void Feed(WorkingSet& set, int64_t from, int64_t to, uint64_t has, uint64_t uses) {
  for (int64_t second = from; second < to; ++second) set.Update(Guest(second, has, uses), MonotonicAt(second));
}

TEST(WorkingSet, IsNotKnownBeforeTheGuestHasSaidAnything) { EXPECT_FALSE(WorkingSet().size().has_value()); }

TEST(WorkingSet, IsWhatTheGuestUsesWithItsKernel) {
  WorkingSet set;
  Feed(set, 0, 1, 1024, 300);
  EXPECT_EQ(set.size(), ByteCount::MiB(300));
}

TEST(WorkingSet, RisesAtOnceAndFallsWithinMinutes) {
  WorkingSet set;
  Feed(set, 0, 60, 1024, 300);
  Feed(set, 60, 61, 1024, 700);
  EXPECT_EQ(set.size(), ByteCount::MiB(700));
  Feed(set, 61, 121, 1024, 700);
  Feed(set, 121, 131, 1024, 300);
  EXPECT_GT(set.size()->in_mib(), 500) << "ten seconds are not enough to be believed";
  Feed(set, 131, 421, 1024, 300);
  EXPECT_LT(set.size()->in_mib(), 320);
}

TEST(WorkingSet, StaysTheSameWhereFiguresTremble) {
  WorkingSet set;
  for (int64_t second = 0; second < 600; ++second) {
    set.Update(Guest(second, 1024, 500 + static_cast<uint64_t>(second * 7 % 20)), MonotonicAt(second));
    if (second > 30) {
      EXPECT_EQ(set.size(), ByteCount::MiB(519)) << second;
    }
  }
}

// The host's figure is a second behind the guest's, or the guest's behind the host's.
TEST(WorkingSet, DoesNotTakeABalloonThatMovesForMemoryInUse) {
  WorkingSet set;
  Feed(set, 0, 10, 1024, 300);
  DomainObservation between = Guest(10, 624, 300);
  between.memory.current = ByteCount::MiB(1024);
  set.Update(between, MonotonicAt(10));
  EXPECT_LT(set.size()->in_mib(), 310);
  Feed(set, 11, 20, 624, 300);
  between = Guest(20, 624, 300);
  between.memory.current = ByteCount::MiB(1024);
  set.Update(between, MonotonicAt(20));
  EXPECT_LT(set.size()->in_mib(), 310);
  EXPECT_GE(set.size()->in_mib(), 285);
}

TEST(WorkingSet, IsMoreThanAGuestHasThatSwapsIn) {
  WorkingSet set;
  Feed(set, 0, 10, 512, 500);
  EXPECT_FALSE(set.swaps());
  DomainObservation guest = Guest(10, 512, 500);
  guest.stats.swap_in = ByteCount::MiB(20);
  set.Update(guest, MonotonicAt(10));
  EXPECT_TRUE(set.swaps());
  EXPECT_GE(set.size()->in_mib(), 512 + 1024 / 20 - 1);
  Feed(set, 11, 12, 512, 500);
  EXPECT_FALSE(set.swaps()) << "the count has become less: it is another guest";
}

TEST(WorkingSet, IsMoreThanAGuestHasThatWaitsForItsProgramsText) {
  WorkingSet set;
  Feed(set, 0, 10, 512, 490);
  DomainObservation guest = Guest(10, 512, 490);
  guest.stats.major_faults = 5000;
  set.Update(guest, MonotonicAt(10));
  EXPECT_TRUE(set.swaps());
  guest = Guest(11, 512, 200);
  guest.stats.major_faults = 10000;
  set.Update(guest, MonotonicAt(11));
  EXPECT_FALSE(set.swaps()) << "there is memory for it: it reads files";
}

TEST(WorkingSet, IsNeverMoreThanTheGuestCanHave) {
  WorkingSet set;
  Feed(set, 0, 2, 1024, 1000);
  DomainObservation guest = Guest(2, 1024, 1000);
  guest.stats.swap_in = ByteCount::GiB(100);
  set.Update(guest, MonotonicAt(2));
  EXPECT_EQ(set.size(), kAll);
}

TEST(WorkingSet, TakesNoNoticeOfWhatWasSaidBefore) {
  WorkingSet set;
  Feed(set, 0, 10, 1024, 300);
  set.Update(Guest(9, 1024, 900), MonotonicAt(10));
  EXPECT_EQ(set.size(), ByteCount::MiB(300));
}

TEST(CheckStatistics, SaysWhyTheyAreOfNoUse) {
  const auto why = [](const DomainObservation& domain) {
    return std::string(CheckStatistics(domain, TimeAt(100), absl::Seconds(30)).message());
  };
  EXPECT_EQ(why(Guest(100, 1024, 300)), "");
  EXPECT_EQ(why(Guest(70, 1024, 300)), "");
  EXPECT_EQ(why(Guest(60, 1024, 300)), "its guest has said nothing for 40s");
  EXPECT_THAT(why(Guest(200, 1024, 300)), testing::HasSubstr("from the future"));
  EXPECT_THAT(why({}), testing::HasSubstr("a virtio balloon"));
  DomainObservation guest = Guest(100, 1024, 300);
  guest.stats.usable = ByteCount::GiB(2);
  EXPECT_THAT(why(guest), testing::HasSubstr("more memory is free than it has"));
  guest.stats.available = ByteCount::GiB(2);
  EXPECT_THAT(why(guest), testing::HasSubstr("claims to have 2 GiB of 1 GiB"));
}

}  // namespace
}  // namespace quire
