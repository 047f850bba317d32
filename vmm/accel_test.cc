#include "vmm/accel.h"

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "vmm/fake_host.h"

namespace quire {
namespace {

FakeHost WithoutKvm() {
  FakeHost host = GoodHost();
  host.kvm = {.open_error = ENOENT};
  return host;
}

TEST(DecideAccelTest, AutoTakesKvmWhereItWorks) {
  const absl::StatusOr<AccelDecision> decision = DecideAccel({}, GoodHost());
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->accel, Accel::kKvm);
}

TEST(DecideAccelTest, AutoFallsBackAndSaysWhy) {
  const absl::StatusOr<AccelDecision> decision = DecideAccel({}, WithoutKvm());
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->accel, Accel::kSoft);
  EXPECT_EQ(decision->because, "/dev/kvm does not exist, for the KVM module is not loaded");
}

TEST(DecideAccelTest, SoftNeedsNothing) {
  FakeHost host = WithoutKvm();
  host.userfaultfd = {.syscall_error = EPERM, .device_error = EACCES};
  EXPECT_EQ(DecideAccel({.accel = Accel::kSoft}, host)->accel, Accel::kSoft);
}

TEST(DecideAccelTest, KvmThatIsAskedForAndMissingIsAnError) {
  const absl::Status status = DecideAccel({.accel = Accel::kKvm}, WithoutKvm()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "--accel=kvm needs KVM, but /dev/kvm does not exist, for the KVM module is not loaded: load the module as "
            "root with "
            "`modprobe kvm_intel`, or use --accel=soft");
}

TEST(DecideAccelTest, APayloadNeedsKvmWhateverIsAskedFor) {
  const absl::Status status = DecideAccel({.own_program = "--payload"}, WithoutKvm()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "--payload needs KVM, but /dev/kvm does not exist, for the KVM module is not loaded: load the module as "
            "root with "
            "`modprobe kvm_intel`");
}

TEST(DecideAccelTest, OnlyOurEngineNeedsUserfaultfd) {
  FakeHost host = GoodHost();
  host.userfaultfd = {.syscall_error = EPERM, .device_error = EACCES};
  EXPECT_EQ(DecideAccel({}, host)->accel, Accel::kSoft);
  EXPECT_EQ(DecideAccel({.engine = Engine::kKernel}, host)->accel, Accel::kKvm);
}

TEST(KvmObstacleTest, SaysWhyTheDeviceIsNotThere) {
  FakeHost host = WithoutKvm();
  host.files["/sys/class/misc/kvm"] = "";
  EXPECT_EQ(KvmObstacle(host)->found, "the kernel has KVM, but /dev/kvm does not exist here");
  host = WithoutKvm();
  host.log = "<6>[    0.2] kvm-pvm: cannot run guests natively\n";
  EXPECT_EQ(FullText(*KvmObstacle(host)),
            "/dev/kvm does not exist (the kernel says \"kvm-pvm: cannot run guests natively\")");
  host = WithoutKvm();
  host.files["/proc/cpuinfo"] = "flags\t: fpu hypervisor\n";
  EXPECT_EQ(KvmObstacle(host)->found, "/dev/kvm does not exist and the CPU shows neither VMX nor SVM");
  EXPECT_EQ(KvmObstacle(host)->fix, "enable nested virtualization for this virtual machine where it is hosted");
  host.files["/proc/cpuinfo"] = "flags\t: fpu\n";
  EXPECT_EQ(KvmObstacle(host)->fix, "enable virtualization (VT-x or AMD-V) in the firmware setup");
}

TEST(KvmObstacleTest, ToldApartFromPermissions) {
  FakeHost host = GoodHost();
  host.kvm = {.open_error = EACCES};
  EXPECT_EQ(KvmObstacle(host)->found, "/dev/kvm may not be opened by this user");
  EXPECT_EQ(KvmObstacle(host)->fix,
            "join the group that owns it (`stat -c %G /dev/kvm`; if that is root, become root) and log in again");
}

TEST(KvmObstacleTest, ADeviceThatDoesNotWork) {
  FakeHost host = GoodHost();
  host.kvm = {.open_error = ENODEV};
  EXPECT_EQ(KvmObstacle(host)->found, "/dev/kvm cannot be opened (No such device)");
  host.kvm = {.api_version = 11};
  EXPECT_EQ(KvmObstacle(host)->found, "/dev/kvm speaks version 11 of its interface, not 12");
  host.kvm = {.api_version = 12, .create_vm_error = EBUSY};
  EXPECT_EQ(KvmObstacle(host)->found, "/dev/kvm creates no virtual machine (Device or resource busy)");
  EXPECT_EQ(KvmObstacle(GoodHost()), std::nullopt);
}

TEST(UserfaultfdObstacleTest, EitherWayIn) {
  FakeHost host = GoodHost();
  host.userfaultfd.syscall_error = EPERM;
  EXPECT_EQ(UserfaultfdObstacle(host), std::nullopt);
  host.userfaultfd.device_error = EACCES;
  host.user = 1000;
  EXPECT_EQ(UserfaultfdObstacle(host)->fix, "run as root, or as root do `sysctl vm.unprivileged_userfaultfd=1`");
  host.user = 0;
  EXPECT_EQ(UserfaultfdObstacle(host)->fix, "allow the userfaultfd system call in the container's seccomp profile");
  host.userfaultfd.syscall_error = ENOSYS;
  EXPECT_EQ(UserfaultfdObstacle(host)->fix, "run a kernel with CONFIG_USERFAULTFD");
}

TEST(UserfaultfdObstacleTest, FeaturesAreNeeded) {
  FakeHost host = GoodHost();
  host.userfaultfd.features = kUffdMissingShmem;
  EXPECT_EQ(UserfaultfdObstacle(host)->fix, "run Linux 5.14 or later");
}

}  // namespace
}  // namespace quire
