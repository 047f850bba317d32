#include "vmm/bench/measurement.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(MeasurementTest, SurvivesTheWayFromProcessToProcess) {
  const Measurement measured{.value = 1.5,
                             .cpu_seconds = 0.25,
                             .content_ratio = 2.5,
                             .mismatched_pages = 3,
                             .details = {{"pages_in_per_operation", 0.125}}};
  const std::string line = ToJsonLine(measured);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const absl::StatusOr<Measurement> read = MeasurementFromJson(line);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->value, 1.5);
  EXPECT_EQ(read->cpu_seconds, 0.25);
  EXPECT_EQ(read->content_ratio, 2.5);
  EXPECT_EQ(read->mismatched_pages, 3u);
  EXPECT_EQ(read->details, measured.details);
}

TEST(MeasurementTest, OneThatMissedItsGoalHasNoFigures) {
  const std::string line = ToJsonLine({.value = 7, .cpu_seconds = 7, .missed = "in 60 seconds"});
  EXPECT_EQ(line.find('7'), std::string::npos) << line;
  EXPECT_EQ(MeasurementFromJson(line)->missed, "in 60 seconds");
}

TEST(MeasurementTest, WhatIsNoneIsRefused) {
  for (const char* text : {"", "7", "{}", "[]", "{\"value\": \"x\"}", "{\"value\": 1, \"cpu_seconds\": 2}",
                           "{\"value\":", "{\"missed\": 1}",
                           "{\"value\":1,\"cpu_seconds\":1,\"content_ratio\":1,\"mismatched_pages\":null}"}) {
    EXPECT_EQ(MeasurementFromJson(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(MedianTest, IsTheMiddleWhateverTheOrder) {
  EXPECT_EQ(Median({7}), 7);
  EXPECT_EQ(Median({9, 1, 5}), 5);
  EXPECT_EQ(Median({4, 1, 100, 2}), 3);
}

// Mean 1, standard deviation 0.0158, t(0.975, 4) = 2.776.
TEST(ConfidenceTest, BoundsTheMeanAsStudentSays) {
  const Interval bounds = ConfidenceOfMean({1.01, 0.99, 1.02, 0.98, 1.00});
  EXPECT_NEAR(bounds.low, 0.98037, 0.0001);
  EXPECT_NEAR(bounds.high, 1.01963, 0.0001);
  const Interval certain = ConfidenceOfMean({2, 2, 2});
  EXPECT_EQ(certain.low, 2);
  EXPECT_EQ(certain.high, 2);
}

}  // namespace
}  // namespace quire
