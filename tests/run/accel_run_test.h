// For tests of whole runs that are built once for software vCPUs and once for KVM: QUIRE_TEST_ACCEL is kSoft or kKvm.
#ifndef QUIRE_TESTS_RUN_ACCEL_RUN_TEST_H_
#define QUIRE_TESTS_RUN_ACCEL_RUN_TEST_H_

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tests/run/run_in_child.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/options.h"

namespace quire {

class AccelRunTest : public ::testing::Test {
 protected:
  static constexpr Accel kAccel = Accel::QUIRE_TEST_ACCEL;

  void SetUp() override {
    if (kAccel != Accel::kKvm) return;
    if (absl::StatusOr<KvmSystem> system = KvmSystem::Open(); !system.ok()) GTEST_SKIP() << system.status().message();
  }

  static void ExpectRightBytes(const ChildRun& run) {
    ASSERT_EQ(run.status, 0);
    for (const nlohmann::json& guest : run.report["guests"]) {
      EXPECT_EQ(guest["exit"], "ok");
      EXPECT_EQ(guest["mismatched_pages"], 0u);
      EXPECT_GT(guest["verified_pages"], 0u);
    }
  }
};

}  // namespace quire

#endif  // QUIRE_TESTS_RUN_ACCEL_RUN_TEST_H_
