#include "vmm/host_facts.h"

#include <string>

#include "gtest/gtest.h"
#include "vmm/fake_host.h"

namespace quire {
namespace {

TEST(KernelTest, ReadsMajorAndMinor) {
  FakeHost host;
  EXPECT_EQ(Kernel(host), (KernelVersion{0, 0}));
  for (const auto& [release, version] : std::map<std::string, KernelVersion>{
           {"6.1.0-37-amd64\n", {6, 1}}, {"5.15\n", {5, 15}}, {"6.18-rc1\n", {6, 18}}, {"rubbish\n", {0, 0}}}) {
    host.files["/proc/sys/kernel/osrelease"] = release;
    EXPECT_EQ(Kernel(host), version) << release;
  }
  EXPECT_LT((KernelVersion{5, 14}), (KernelVersion{6, 1}));
}

TEST(MemInfoTest, ReadsKibibytes) {
  const FakeHost host = GoodHost();
  EXPECT_EQ(MemInfo(host, "MemTotal"), ByteCount::KiB(16384000));
  EXPECT_EQ(MemInfo(host, "SwapTotal"), ByteCount());
  EXPECT_EQ(MemInfo(host, "Mem"), ByteCount());
}

TEST(CgroupLimitTest, TheLowestLimitAboveCounts) {
  FakeHost host = GoodHost();
  EXPECT_EQ(CgroupLimit(host), std::nullopt);
  host.files["/sys/fs/cgroup/user.slice/session.scope/memory.max"] = "max\n";
  EXPECT_EQ(CgroupLimit(host), std::nullopt);
  host.files["/sys/fs/cgroup/user.slice/memory.max"] = "1073741824\n";
  EXPECT_EQ(CgroupLimit(host), ByteCount::GiB(1));
  host.files["/sys/fs/cgroup/user.slice/session.scope/memory.max"] = "2147483648\n";
  EXPECT_EQ(CgroupLimit(host), ByteCount::GiB(1));
  EXPECT_EQ(UsableMemory(host), ByteCount::GiB(1));
}

TEST(CgroupLimitTest, ANamespaceShowsItsOwnRoot) {
  FakeHost host = GoodHost();
  host.files["/proc/self/cgroup"] = "0::/\n";
  host.files["/sys/fs/cgroup/memory.max"] = "536870912\n";
  EXPECT_EQ(CgroupLimit(host), ByteCount::MiB(512));
}

TEST(CgroupLimitTest, VersionOneIsPreferredWhereItHasMemory) {
  FakeHost host = GoodHost();
  host.files["/proc/self/cgroup"] = "5:cpu:/\n4:memory:/job/1\n0::/\n";
  host.files["/sys/fs/cgroup/memory/job/1/memory.limit_in_bytes"] = "9223372036854771712\n";
  EXPECT_EQ(CgroupLimit(host), std::nullopt);
  host.files["/sys/fs/cgroup/memory/job/memory.limit_in_bytes"] = "4294967296\n";
  EXPECT_EQ(CgroupLimit(host), ByteCount::GiB(4));
}

TEST(CgroupLimitTest, WithoutCgroupsThereIsNone) {
  FakeHost host = GoodHost();
  host.files.erase("/proc/self/cgroup");
  EXPECT_EQ(CgroupLimit(host), std::nullopt);
  EXPECT_EQ(UsableMemory(host), ByteCount::KiB(16384000));
}

TEST(ChosenInTest, TakesTheWordInBrackets) {
  FakeHost host;
  EXPECT_EQ(ChosenIn(host, "/none"), "");
  host.files["/x"] = "always defer defer+madvise [madvise] never\n";
  EXPECT_EQ(ChosenIn(host, "/x"), "madvise");
  host.files["/x"] = "]always[\n";
  EXPECT_EQ(ChosenIn(host, "/x"), "");
}

TEST(CpuFlagTest, MatchesWholeWords) {
  FakeHost host;
  host.files["/proc/cpuinfo"] = "processor\t: 0\nflags\t\t: fpu vmx_extra svm\nvmx flags\t: vmx\n";
  EXPECT_TRUE(HasCpuFlag(host, "svm"));
  EXPECT_FALSE(HasCpuFlag(host, "vmx"));
}

TEST(CapabilityTest, ReadsTheEffectiveSet) {
  FakeHost host;
  EXPECT_FALSE(HasCapability(host, kCapSysAdmin));
  host.files["/proc/self/status"] = "CapPrm:\tffffffffffffffff\nCapEff:\t0000000000200000\n";
  EXPECT_TRUE(HasCapability(host, kCapSysAdmin));
  EXPECT_FALSE(HasCapability(host, kCapSysPtrace));
}

TEST(KvmComplaintTest, TakesTheLastLineThatSaysWhy) {
  FakeHost host;
  EXPECT_EQ(KvmComplaint(host), "");
  host.log =
      "<6>[    0.1] kvm-guest: setup PV IPIs\n"
      "<3>[    0.2] kvm: no hardware support\n"
      "<3>[    0.3] kvm_intel: VMX not enabled; KVM disabled by BIOS\n"
      "<6>[    0.4] e1000: cannot do something\n";
  EXPECT_EQ(KvmComplaint(host), "kvm_intel: VMX not enabled; KVM disabled by BIOS");
}

}  // namespace
}  // namespace quire
