#include "vmm/kvm/kvm_system.h"

#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  return std::string(status.message());
}

TEST(KvmSystem, MissingDeviceSaysHowToGetOne) {
  const auto system = KvmSystem::Open(::testing::TempDir() + "/no-such-kvm");
  ASSERT_FALSE(system.ok());
  EXPECT_THAT(MessageOf(system.status()),
              AllOf(HasSubstr("no-such-kvm: No such file"), HasSubstr("modprobe"), HasSubstr("--accel=soft")));
}

TEST(KvmSystem, AnotherDeviceIsNotKvm) {
  const auto system = KvmSystem::Open("/dev/null");
  ASSERT_FALSE(system.ok());
  EXPECT_THAT(MessageOf(system.status()), HasSubstr("/dev/null is not KVM"));
}

TEST(KvmSystem, LackOfPermissionSaysWhoHasIt) {
  const std::string path = ::testing::TempDir() + "/kvm-of-a-group";
  std::ofstream(path).put(' ');
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  EXPECT_THAT(MessageOf(KvmOpenError(path, EACCES)), HasSubstr("run as root or ask the administrator"));
  EXPECT_THAT(MessageOf(KvmOpenError(path, EPERM)), HasSubstr("--accel=soft"));
}

TEST(KvmSystem, ShortageOfTheHostIsUnavailable) {
  EXPECT_EQ(KvmCallError("creating a vCPU", ENOMEM).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(KvmCallError("creating a vCPU", EINVAL).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(KvmCallError("creating a vCPU", ENOMEM).message()), HasSubstr("creating a vCPU failed: "));
}

CpuidTable TableWith(uint32_t leaf, uint32_t index, uint32_t eax) {
  CpuidTable table;
  table.size = 2;
  table.entries[1].function = leaf;
  table.entries[1].index = index;
  table.entries[1].eax = eax;
  return table;
}

TEST(PhysicalAddressBits, AreThoseOfTheProcessorUnlessGuestsHaveFewer) {
  EXPECT_EQ(PhysicalAddressBits(TableWith(0x80000008, 0, 0x3030)), 48);
  EXPECT_EQ(PhysicalAddressBits(TableWith(0x80000008, 0, 0x303934)), 48);
  EXPECT_EQ(PhysicalAddressBits(TableWith(0x80000008, 0, 0x343928)), 40);
  EXPECT_EQ(PhysicalAddressBits(TableWith(0x80000008, 0, 0)), 36);
  EXPECT_EQ(PhysicalAddressBits(TableWith(0x80000001, 0, 0x30)), 36);
  EXPECT_EQ(PhysicalAddressBits(TableWith(0x80000008, 1, 0x30)), 36);
  EXPECT_EQ(PhysicalAddressBits(CpuidTable()), 36);
}

}  // namespace
}  // namespace quire
