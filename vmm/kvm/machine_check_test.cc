#include "vmm/kvm/machine_check.h"

#include <linux/kvm.h>

#include <cstdint>

#include "base/units.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr Gpa kPage = Gpa(0x1'2345'6000);

// The numbers are those that Linux has in arch/x86/include/asm/mce.h and QEMU raises (kvm_mce_inject).

TEST(MachineCheckTest, OnIntelItIsADataLoadErrorThatNeedsAnAction) {
  const kvm_x86_mce check = LostPageCheck(kPage, MachineCheckScope::kIntelAll);
  EXPECT_EQ(check.bank, 9);
  EXPECT_EQ(check.status, 0xbd80'0000'0000'0134u);
  EXPECT_EQ(check.addr, kPage.value());
  EXPECT_EQ(check.misc, 0x8cu);
  EXPECT_EQ(check.mcg_status, 7u);
}

TEST(MachineCheckTest, ALocalOneSaysSo) {
  const kvm_x86_mce check = LostPageCheck(kPage, MachineCheckScope::kIntelLocal);
  EXPECT_EQ(check.status, 0xbd80'0000'0000'0134u);
  EXPECT_EQ(check.mcg_status, 0xfu);
}

TEST(MachineCheckTest, OnAmdItIsPoisonThatWasConsumed) {
  const kvm_x86_mce check = LostPageCheck(kPage, MachineCheckScope::kAmd);
  EXPECT_EQ(check.bank, 9);
  EXPECT_EQ(check.status, 0xbc00'0800'0000'0000u);
  EXPECT_EQ(check.addr, kPage.value());
  EXPECT_EQ(check.misc, 0x8cu);
  EXPECT_EQ(check.mcg_status, 7u);
}

TEST(MachineCheckTest, OtherProcessorsCanGoOnAndHaveNoErrorOfTheirOwn) {
  const kvm_x86_mce check = CheckElsewhere();
  EXPECT_NE(check.bank, kMachineCheckBank);
  EXPECT_EQ(check.status, 0xa000'0000'0000'0000u) << "not enabled: Linux grades it as nothing";
  EXPECT_EQ(check.addr, 0u);
  EXPECT_EQ(check.mcg_status, 5u);
}

}  // namespace
}  // namespace quire
