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

}  // namespace
}  // namespace quire
