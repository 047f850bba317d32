#include "vmm/exit_status.h"

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(ExitStatusTest, NumbersAreWhatScriptsExpect) {
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::OkStatus())), 0);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::DataLossError("a page"))), 1);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::InternalError("a bug"))), 1);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::InvalidArgumentError("a flag"))), 2);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::OutOfRangeError("a flag"))), 2);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::FailedPreconditionError("no KVM"))), 3);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::NotFoundError("no device"))), 3);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::PermissionDeniedError("no device"))), 3);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::UnimplementedError("no call"))), 3);
  EXPECT_EQ(static_cast<int>(ToExitStatus(absl::ResourceExhaustedError("no memory"))), 4);
}

}  // namespace
}  // namespace quire
