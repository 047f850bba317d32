#include "vmm/boot/pc_layout.h"

#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(PcLayout, SmallMemoryIsOneRegion) {
  const GuestRegions regions = PcRegions(ByteCount::MiB(64));
  ASSERT_EQ(regions.size(), 1u);
  EXPECT_EQ(regions[0].gpa, Gpa(0));
  EXPECT_EQ(regions[0].pages, GfnRange(Gfn(0), PageCount(64 * 256)));
}

TEST(PcLayout, ExactlyThreeGiBIsOneRegion) { EXPECT_EQ(PcRegions(ByteCount::GiB(3)).size(), 1u); }

TEST(PcLayout, MemoryBeyondThreeGiBLiesAboveFour) {
  const GuestRegions regions = PcRegions(ByteCount::GiB(5));
  ASSERT_EQ(regions.size(), 2u);
  EXPECT_EQ(regions[0].pages, GfnRange(Gfn(0), Gfn(3 << 18)));
  EXPECT_EQ(regions[1].gpa, Gpa(uint64_t{4} << 30));
  EXPECT_EQ(regions[1].pages, GfnRange(Gfn(3 << 18), Gfn(5 << 18)));
}

TEST(PcLayout, APartialPageIsNoMemory) {
  EXPECT_EQ(PcRegions(ByteCount::Bytes(2 * kPageSize - 1))[0].pages.size(), kOnePage);
  EXPECT_TRUE(PcRegions(ByteCount::Bytes(kPageSize - 1)).empty());
}

bool IsMemory(const std::vector<MemoryMapEntry>& map, Gpa gpa) {
  for (const MemoryMapEntry& entry : map) {
    if (entry.begin <= gpa && gpa < entry.begin + entry.size) return entry.type == MemoryMapEntry::Type::kMemory;
  }
  return false;
}

TEST(PcLayout, TheMapTellsOfMemoryWhereItIs) {
  const std::vector<MemoryMapEntry> map = PcMemoryMap(ByteCount::GiB(5));
  for (const Gpa gpa : {Gpa(0), kBootInfo, kKernelBegin, Gpa(kLowMemoryLimit.value() - 1), kHighMemoryBegin,
                        Gpa((uint64_t{6} << 30) - 1)}) {
    EXPECT_TRUE(IsMemory(map, gpa)) << gpa.value();
  }
  for (const Gpa gpa : {kBaseMemoryEnd, Gpa(0xa0000), kAcpiBegin, kLowMemoryLimit, kVirtioMmio, kIoApic, kLocalApics,
                        Gpa(uint64_t{6} << 30)}) {
    EXPECT_FALSE(IsMemory(map, gpa)) << gpa.value();
  }
}

TEST(PcLayout, TheMapIsInOrderAndCoversAllMemoryAboveOneMiB) {
  for (const ByteCount memory : {kPcMinMemory, ByteCount::GiB(3), ByteCount::GiB(7), kPcMaxMemory}) {
    uint64_t end = 0, above = 0;
    for (const MemoryMapEntry& entry : PcMemoryMap(memory)) {
      EXPECT_GE(entry.begin.value(), end);
      EXPECT_GT(entry.size, ByteCount());
      end = (entry.begin + entry.size).value();
      if (entry.begin >= kKernelBegin) above += entry.size.in_bytes();
    }
    EXPECT_EQ(above + kKernelBegin.value(), memory.in_bytes());
  }
}

// Device registers where there may be memory would never be reached.
static_assert(kVirtioMmio >= kLowMemoryLimit && VirtioMmio(kMaxVirtioDevices) <= kIoApic);
static_assert(kLocalApics < kHighMemoryBegin);
static_assert(VirtioGsi(kMaxVirtioDevices) == 24, "the IO-APIC has 24 pins");

}  // namespace
}  // namespace quire
