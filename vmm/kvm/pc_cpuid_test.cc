#include "vmm/kvm/pc_cpuid.h"

#include <linux/kvm.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/kvm/kvm_system.h"

namespace quire {
namespace {

CpuidTable TableWith(const std::vector<kvm_cpuid_entry2>& entries) {
  CpuidTable table;
  for (const kvm_cpuid_entry2& entry : entries) table.entries[table.size++] = entry;
  return table;
}

kvm_cpuid_entry2 Leaf(uint32_t function, uint32_t index = 0) {
  kvm_cpuid_entry2 entry = {};
  entry.function = function;
  entry.index = index;
  return entry;
}

const kvm_cpuid_entry2& Level(const CpuidTable& table, uint32_t leaf, uint32_t index) {
  for (uint32_t i = 0; i < table.size; ++i) {
    if (table.entries[i].function == leaf && table.entries[i].index == index) return table.entries[i];
  }
  ADD_FAILURE() << "no level " << index;
  return table.entries[0];
}

TEST(PcCpuidTest, EachProcessorHasItsOwnNumber) {
  const CpuidTable supported = TableWith({Leaf(1), Leaf(0xb), Leaf(0x8000001e)});
  for (int vcpu = 0; vcpu < 4; ++vcpu) {
    const CpuidTable table = PcCpuid(supported, vcpu, 4, /*tsc_deadline=*/true);
    const auto id = static_cast<uint32_t>(vcpu);
    EXPECT_EQ(table.Find(1)->ebx >> 24, id);
    EXPECT_EQ(table.Find(1)->ebx >> 16 & 0xff, 4u);
    EXPECT_EQ(Level(table, 0xb, 0).edx, id);
    EXPECT_EQ(table.Find(0x8000001e)->eax, id);
  }
}

TEST(PcCpuidTest, AllProcessorsAreCoresOfOnePackage) {
  const CpuidTable table = PcCpuid(TableWith({Leaf(0xb)}), 2, 3, /*tsc_deadline=*/false);
  EXPECT_EQ(Level(table, 0xb, 0).eax, 0u);
  EXPECT_EQ(Level(table, 0xb, 0).ebx, 1u);
  EXPECT_EQ(Level(table, 0xb, 0).ecx, 0x100u);  // threads
  EXPECT_EQ(Level(table, 0xb, 1).eax, 2u);      // bits that hold 0 to 2
  EXPECT_EQ(Level(table, 0xb, 1).ebx, 3u);
  EXPECT_EQ(Level(table, 0xb, 1).ecx, 0x201u);  // cores
  EXPECT_EQ(Level(table, 0xb, 2).ecx, 0x2u);    // the end
}

TEST(PcCpuidTest, OneProcessorNeedsNoBits) {
  const CpuidTable table = PcCpuid(TableWith({Leaf(0xb), Leaf(1)}), 0, 1, /*tsc_deadline=*/false);
  EXPECT_EQ(Level(table, 0xb, 1).eax, 0u);
  EXPECT_EQ(table.Find(1)->edx & 1u << 28, 0u);
}

TEST(PcCpuidTest, ALeafThatTheHostLacksIsNotMadeUp) {
  const CpuidTable table = PcCpuid(TableWith({Leaf(1), Leaf(0xb)}), 0, 1, /*tsc_deadline=*/false);
  EXPECT_EQ(table.Find(0x1f), nullptr);
}

TEST(PcCpuidTest, TheTimersDeadlineModeIsOfferedWhereKvmHasIt) {
  const CpuidTable supported = TableWith({Leaf(1)});
  EXPECT_NE(PcCpuid(supported, 0, 1, true).Find(1)->ecx & 1u << 24, 0u);
  EXPECT_EQ(PcCpuid(supported, 0, 1, false).Find(1)->ecx & 1u << 24, 0u);
}

TEST(PcCpuidTest, OfKvmsFeaturesOnlyTheClockIsOffered) {
  kvm_cpuid_entry2 features = Leaf(0x40000001);
  features.eax = ~0u;
  EXPECT_EQ(PcCpuid(TableWith({features}), 0, 1, true).Find(0x40000001)->eax, 1u << 0 | 1u << 1 | 1u << 3 | 1u << 24);
}

TEST(PcCpuidTest, OnlyTheLastCacheIsShared) {
  kvm_cpuid_entry2 first = Leaf(4, 0);
  first.eax = 1 | 1 << 5 | 3 << 14;  // data, level 1, shared by 4
  kvm_cpuid_entry2 last = Leaf(4, 1);
  last.eax = 3 | 3 << 5;  // unified, level 3
  const CpuidTable table = PcCpuid(TableWith({first, last}), 0, 8, true);
  EXPECT_EQ(Level(table, 4, 0).eax >> 14 & 0xfff, 0u);
  EXPECT_EQ(Level(table, 4, 1).eax >> 14 & 0xfff, 7u);
}

TEST(PcCpuidTest, OnlyAmdsProcessorsAreSaidToRecoverFromMachineChecksThere) {
  kvm_cpuid_entry2 vendor = Leaf(0);
  EXPECT_FALSE(IsAmd(TableWith({})));
  for (const char* const name : {"GenuineIntel", "AuthenticAMD", "HygonGenuine"}) {
    std::memcpy(&vendor.ebx, name, 4);
    std::memcpy(&vendor.edx, name + 4, 4);
    std::memcpy(&vendor.ecx, name + 8, 4);
    const CpuidTable supported = TableWith({vendor, Leaf(0x80000007)});
    EXPECT_EQ(IsAmd(supported), *name != 'G') << name;
    EXPECT_EQ(PcCpuid(supported, 0, 1, /*tsc_deadline=*/true).Find(0x80000007)->ebx, *name != 'G' ? 3u : 0u) << name;
  }
}

}  // namespace
}  // namespace quire
