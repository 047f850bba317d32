#include "vmm/results/measure.h"

#include "absl/strings/substitute.h"
#include "gtest/gtest.h"

namespace quire::results {
namespace {

TEST(MeasureTest, KnowsTheValuesOfRuns) {
  const Measure measure = MeasureOf("operations_per_second");
  EXPECT_EQ(measure.name, "operations a second");
  EXPECT_EQ(measure.unit, Unit::kPerSecond);
  EXPECT_EQ(absl::Substitute(measure.more, "3.1"), "does 3.1 times as many operations a second as");
  EXPECT_EQ(absl::Substitute(measure.less, "41"), "does 41 % fewer operations a second than");
}

TEST(MeasureTest, GuessesFromTheSpellingOfOthers) {
  const Measure measure = MeasureOf("pages_in_per_second");
  EXPECT_EQ(measure.name, "pages in a second");
  EXPECT_EQ(measure.unit, Unit::kPerSecond);
  EXPECT_EQ(MeasureOf("store_bytes").unit, Unit::kBytes);
  EXPECT_EQ(MeasureOf("scan_us").unit, Unit::kMicroseconds);
  EXPECT_EQ(MeasureOf("merged").unit, Unit::kNumber);
}

TEST(MeasureTest, ANameIsNoPlaceForANumber) {
  EXPECT_EQ(absl::Substitute(MeasureOf("a$1b$").more, "2"), "has 2 times the a$1b$ of");
}

TEST(FormatTest, HasUnits) {
  EXPECT_EQ(Format(91234.5, Unit::kPerSecond), "91.2k/s");
  EXPECT_EQ(Format(12.1, Unit::kSeconds), "12.1 s");
  EXPECT_EQ(Format(40, Unit::kMicroseconds), "40.0 \u00b5s");
  EXPECT_EQ(Format(2500, Unit::kMicroseconds), "2.50 ms");
  EXPECT_EQ(Format(256 << 20, Unit::kBytes), "256 MiB");
  EXPECT_EQ(Format(0.71, Unit::kShare), "71.0 %");
  EXPECT_EQ(Format(4, Unit::kNumber), "4");
  EXPECT_EQ(Format(-1500, Unit::kPerSecond), "-1.5k/s");
  EXPECT_EQ(Format(0, Unit::kNumber), "0");
}

TEST(FormatRatioTest, TellsARatioFromOne) {
  EXPECT_EQ(FormatRatio(3.14159), "3.1");
  EXPECT_EQ(FormatRatio(12.3), "12");
  EXPECT_EQ(FormatRatio(1.02), "1.02");
  EXPECT_EQ(FormatRatio(1.004), "1.004");
  EXPECT_EQ(FormatRatio(1), "1.00");
  EXPECT_EQ(FormatRatio(1e100), "1e+100");
}

}  // namespace
}  // namespace quire::results
