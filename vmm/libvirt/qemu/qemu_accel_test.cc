#include "vmm/libvirt/qemu/qemu_accel.h"

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/fake_host.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

// As libvirt 9.0 has them, in short.
std::string Capabilities(const std::string& types) {
  return absl::StrCat("<capabilities><host/><guest><os_type>hvm</os_type><arch name='i686'><domain type='kvm'/></arch>",
                      "</guest><guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>", types,
                      "</arch></guest></capabilities>");
}
const std::string kBoth = Capabilities("<domain type='qemu'/><domain type='kvm'/>");
const std::string kTcgOnly = Capabilities("<domain type='qemu'/>");

FakeHost ShadowPaging() {
  FakeHost host = GoodHost();
  host.files["/sys/module/kvm_intel/parameters/ept"] = "N\n";
  return host;
}

QemuAccel Decided(Accel asked, const Host& host, const std::string& capabilities) {
  const absl::StatusOr<QemuAccel> accel = DecideQemuAccel(asked, host, capabilities);
  EXPECT_TRUE(accel.ok()) << accel.status();
  return accel.value_or(QemuAccel{});
}

TEST(DecideQemuAccelTest, KvmRunsGuestsWhereItCan) {
  EXPECT_EQ(Decided(Accel::kAuto, GoodHost(), kBoth).name(), "kvm");
  EXPECT_EQ(Decided(Accel::kKvm, GoodHost(), kBoth).name(), "kvm");
}

TEST(DecideQemuAccelTest, TheyAreEmulatedWhereItCannotAndItIsSaidWhy) {
  FakeHost host = GoodHost();
  host.kvm.open_error = ENOENT;
  QemuAccel accel = Decided(Accel::kAuto, host, kBoth);
  EXPECT_EQ(accel.name(), "tcg");
  EXPECT_THAT(accel.because, HasSubstr("/dev/kvm"));
  accel = Decided(Accel::kAuto, ShadowPaging(), kBoth);
  EXPECT_EQ(accel.name(), "tcg");
  EXPECT_THAT(accel.because, HasSubstr("shadow page tables"));
  accel = Decided(Accel::kAuto, GoodHost(), kTcgOnly);
  EXPECT_EQ(accel.name(), "tcg");
  EXPECT_THAT(accel.because, HasSubstr("type kvm"));
  accel = Decided(Accel::kSoft, GoodHost(), kBoth);
  EXPECT_EQ(accel.name(), "tcg");
  EXPECT_EQ(accel.because, "it was asked for");
}

TEST(DecideQemuAccelTest, WhatIsAskedForAndCannotBeIsAnError) {
  const absl::Status status = DecideQemuAccel(Accel::kKvm, ShadowPaging(), kBoth).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(status.message(), HasSubstr("accel = \"auto\""));
}

TEST(DecideQemuAccelTest, WithoutQemuItIsSaidWhatToInstall) {
  for (const std::string& capabilities : {Capabilities(""), std::string("<capabilities/>"), std::string("no XML")}) {
    const absl::Status status = DecideQemuAccel(Accel::kAuto, GoodHost(), capabilities).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    EXPECT_THAT(status.message(), HasSubstr("qemu-system-x86"));
  }
}

}  // namespace
}  // namespace quire
