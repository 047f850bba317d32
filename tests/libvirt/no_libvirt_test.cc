// A program that was built without libvirt says so, and what to install.
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/connection.h"

namespace quire {
namespace {

TEST(NoLibvirt, SaysWhatToInstall) {
  const absl::Status status = OpenLibvirt("test:///default", LibvirtAccess::kReadOnly).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("install libvirt-dev"));
}

}  // namespace
}  // namespace quire
