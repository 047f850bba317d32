// On a small scale, and without the host kernel's side, which takes privileges.
#include "vmm/bench/merge_scan.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/bench/benchmark.h"
#include "vmm/bench/measurement.h"
#include "vmm/options.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

RunOptions FourGuests() {
  RunOptions options;
  options.guests = 4;
  options.memory = ByteCount::MiB(8);
  options.content = "/proc/self/exe";
  options.pool = PoolFor(*FindBenchmark("merge-scan"), options, std::nullopt);
  return options;
}

TEST(MergeScanTest, FindsWhatThereIsAndAllPagesStayRight) {
  const absl::StatusOr<Measurement> measured = MeasureMergeScan(FourGuests(), Side::kQuire);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->missed, "");
  EXPECT_EQ(measured->mismatched_pages, 0u);
  EXPECT_GT(measured->value, 0);
  const double possible = measured->details.at("oracle_bytes");
  EXPECT_GE(measured->details.at("saved_bytes"), 0.95 * possible);
  EXPECT_LE(measured->details.at("saved_bytes"), possible + kPageSize) << "zeros need no frame at all";
  // A third of the memory is zeros, and of three quarters of the rest all guests' pages but one's can go.
  EXPECT_NEAR(possible, ByteCount::MiB(8).in_bytes() * (1 / 3. + 2 / 3. * 3 / 4 * 3 / 4), ByteCount::MiB(1).in_bytes());
}

TEST(MergeScanTest, WhatIsNotReachedInTimeIsNoFigure) {
  const absl::StatusOr<Measurement> measured = MeasureMergeScan(FourGuests(), Side::kQuire, -absl::Seconds(1));
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_THAT(measured->missed, HasSubstr("pages that could be saved"));
  EXPECT_EQ(measured->value, 0);
}

}  // namespace
}  // namespace quire
