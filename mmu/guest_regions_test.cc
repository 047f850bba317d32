#include "mmu/guest_regions.h"

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kEnd = std::numeric_limits<uint64_t>::max();

// As on a PC, but small: four pages from 0 on, two after a hole, and three that follow these at once.
const GuestRegions kRegions = {{Gpa(0), GfnRange(Gfn(0), Gfn(4))},
                               {Gpa(0x10000), GfnRange(Gfn(4), Gfn(6))},
                               {Gpa(0x12000), GfnRange(Gfn(6), Gfn(9))}};

absl::StatusOr<MemoryParts> Parts(uint64_t begin, uint64_t size) {
  return PartsOf(kRegions, Gpa(begin), ByteCount::Bytes(size));
}

TEST(GuestRegionsTest, ARangeWithinARegionIsOnePart) {
  const absl::StatusOr<MemoryParts> parts = Parts(0x11004, 16);
  ASSERT_EQ(parts.status(), absl::OkStatus());
  ASSERT_EQ(parts->size(), 1u);
  EXPECT_EQ(parts->at(0).offset, ByteCount::Bytes(0x5004));
  EXPECT_EQ(parts->at(0).size, ByteCount::Bytes(16));
  EXPECT_EQ(parts->at(0).pages(), GfnRange(Gfn(5), Gfn(6)));
}

TEST(GuestRegionsTest, APageHasAnAddressInItsRegion) {
  EXPECT_EQ(AddressOf(kRegions, Gfn(3)), Gpa(0x3000));
  EXPECT_EQ(AddressOf(kRegions, Gfn(4)), Gpa(0x10000));
  EXPECT_EQ(AddressOf(kRegions, Gfn(8)), Gpa(0x14000));
}

TEST(GuestRegionsTest, APartsPagesAreAllThatItTouches) {
  EXPECT_EQ(Parts(0xfff, 2)->at(0).pages(), GfnRange(Gfn(0), Gfn(2)));
  EXPECT_EQ(Parts(0xfff, 1)->at(0).pages(), GfnRange(Gfn(0), Gfn(1)));
  EXPECT_EQ(Parts(0, 0x4000)->at(0).pages(), GfnRange(Gfn(0), Gfn(4)));
}

TEST(GuestRegionsTest, ARangeMayCrossRegionsThatMeet) {
  const absl::StatusOr<MemoryParts> parts = Parts(0x11fff, 0x1001);
  ASSERT_EQ(parts.status(), absl::OkStatus());
  ASSERT_EQ(parts->size(), 2u);
  EXPECT_EQ(parts->at(0).size, ByteCount::Bytes(1));
  EXPECT_EQ(parts->at(1).offset, ByteCount::Bytes(0x6000));
  EXPECT_EQ(parts->at(1).size, ByteCount::Bytes(0x1000));
}

TEST(GuestRegionsTest, NothingIsNoPart) { EXPECT_TRUE(Parts(0x8000, 0)->empty()); }

TEST(GuestRegionsTest, AnAddressInAHoleIsOutOfRangeAndNamed) {
  for (const auto& [begin, size] :
       {std::pair<uint64_t, uint64_t>{0x4000, 1}, {0x3fff, 2}, {0, 0x10001}, {0x14fff, 2}, {0xffff, 2}, {0x15000, 1}}) {
    EXPECT_TRUE(absl::IsOutOfRange(Parts(begin, size).status())) << std::hex << begin << ' ' << size;
  }
  EXPECT_THAT(std::string(Parts(0x3ffe, 8).status().message()), HasSubstr("address 0x4000 is not memory"));
}

TEST(GuestRegionsTest, RangesThatGoBeyondAllAddressesAreOutOfRange) {
  for (const auto& [begin, size] :
       {std::pair<uint64_t, uint64_t>{0, kEnd}, {0x1000, kEnd}, {kEnd, 1}, {kEnd, 2}, {kEnd - 3, 8}, {kEnd, kEnd}}) {
    EXPECT_TRUE(absl::IsOutOfRange(Parts(begin, size).status())) << std::hex << begin << ' ' << size;
  }
}

TEST(GuestRegionsTest, PagesBeginWherePagesDo) {
  EXPECT_EQ(PartsOfPages(kRegions, Gpa(0x10000), PageCount(5))->at(1).pages(), GfnRange(Gfn(6), Gfn(9)));
  EXPECT_TRUE(absl::IsInvalidArgument(PartsOfPages(kRegions, Gpa(0x10008), kOnePage).status()));
}

TEST(GuestRegionsTest, SoManyPagesThatTheirSizeIsNoNumberAreOutOfRange) {
  for (uint64_t pages : {uint64_t{1} << 52, (uint64_t{1} << 52) + 1, kEnd}) {
    EXPECT_TRUE(absl::IsOutOfRange(PartsOfPages(kRegions, Gpa(0), PageCount(pages)).status())) << pages;
  }
}

TEST(GuestRegionsTest, MemoryAtTheEndOfAllAddressesDoesNotGoOnAtTheirBeginning) {
  const GuestRegions regions = {{Gpa(0), GfnRange(Gfn(0), Gfn(1))},
                                {Gpa(kEnd - kPageSize + 1), GfnRange(Gfn(1), Gfn(2))}};
  EXPECT_EQ(PartsOf(regions, Gpa(kEnd), ByteCount::Bytes(1))->at(0).offset, ByteCount::Bytes(2 * kPageSize - 1));
  EXPECT_TRUE(absl::IsOutOfRange(PartsOf(regions, Gpa(kEnd), ByteCount::Bytes(2)).status()));
}

}  // namespace
}  // namespace quire
