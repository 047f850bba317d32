#include "vmm/results/statistics.h"

#include <cmath>

#include "gtest/gtest.h"

namespace quire::results {
namespace {

TEST(EstimateTest, IsNothingWithoutRepetitions) { EXPECT_FALSE(EstimateOf({}).has_value()); }

TEST(EstimateTest, OfOneRepetitionHasNoInterval) {
  const std::optional<Estimate> one = EstimateOf({{3, 7.5}});
  ASSERT_TRUE(one.has_value());
  EXPECT_EQ(one->median, 7.5);
  EXPECT_EQ(one->mean, 7.5);
  EXPECT_FALSE(one->confidence.has_value());
}

// Mean 4, standard deviation 1, t(0.975, 2) = 4.303.
TEST(EstimateTest, HasTheIntervalOfItsMean) {
  const std::optional<Estimate> three = EstimateOf({{1, 5}, {2, 3}, {3, 4}});
  ASSERT_TRUE(three.has_value() && three->confidence.has_value());
  EXPECT_EQ(three->values, (std::vector<double>{5, 3, 4}));
  EXPECT_EQ(three->least, 3);
  EXPECT_EQ(three->most, 5);
  EXPECT_NEAR(three->confidence->low, 4 - 4.303 / std::sqrt(3.0), 1e-9);
  EXPECT_NEAR(three->confidence->high, 4 + 4.303 / std::sqrt(3.0), 1e-9);
}

// Repetition 2 is twice as slow for both, which the ratios do not notice.
TEST(CompareTest, PairsRepetitionsByTheirNumber) {
  const Comparison comparison = Compare({{1, 30}, {2, 15}, {3, 30}}, {{2, 5}, {1, 10}, {3, 10}});
  EXPECT_EQ(comparison.pairs, 3u);
  EXPECT_NEAR(comparison.ratio, 3, 1e-12);
  ASSERT_TRUE(comparison.confidence.has_value());
  EXPECT_NEAR(comparison.confidence->low, 3, 1e-12);
  EXPECT_NEAR(comparison.confidence->high, 3, 1e-12);
  EXPECT_TRUE(comparison.differs());
}

// Logarithms 0 and log 4: mean log 2, half width 12.706 * log 4 / 2.
TEST(CompareTest, AveragesLogarithms) {
  const Comparison comparison = Compare({{1, 4}, {2, 1}}, {{1, 1}, {2, 1}});
  EXPECT_NEAR(comparison.ratio, 2, 1e-12);
  ASSERT_TRUE(comparison.confidence.has_value());
  EXPECT_NEAR(std::log(comparison.confidence->high), std::log(2) + 12.706 * std::log(4) / 2, 1e-9);
  EXPECT_FALSE(comparison.differs());
}

TEST(CompareTest, SaysNothingWithoutTwoPairs) {
  EXPECT_EQ(Compare({}, {{1, 1}}).pairs, 0u);
  const Comparison one = Compare({{1, 2}, {2, 5}}, {{1, 1}, {3, 1}});
  EXPECT_EQ(one.pairs, 1u);
  EXPECT_EQ(one.ratio, 2);
  EXPECT_FALSE(one.confidence.has_value());
  EXPECT_FALSE(one.differs());
}

TEST(CompareTest, NothingHasARatioToZero) { EXPECT_EQ(Compare({{1, 0}, {2, 5}}, {{1, 1}, {2, 0}}).pairs, 0u); }

TEST(CompareTest, StaysFinite) {
  const Comparison comparison = Compare({{1, 1e18}, {2, 1e-18}}, {{1, 1e-18}, {2, 1e18}});
  ASSERT_TRUE(comparison.confidence.has_value());
  EXPECT_TRUE(std::isfinite(comparison.confidence->high));
  EXPECT_GT(comparison.confidence->low, 0);
}

TEST(QuantileTest, LiesWithinItsBucket) {
  // Ten below 1 us, eighty from 1 to 4, ten beyond.
  const std::vector<double> bounds = {1, 4}, counts = {10, 80, 10};
  EXPECT_NEAR(*QuantileOf(bounds, counts, 0.05), 0.5, 1e-12);
  EXPECT_NEAR(*QuantileOf(bounds, counts, 0.5), 2, 1e-12);
  EXPECT_NEAR(*QuantileOf(bounds, counts, 0.9), 4, 1e-12);
  EXPECT_FALSE(QuantileOf(bounds, counts, 0.99).has_value());
  EXPECT_FALSE(QuantileOf(bounds, {0, 0, 0}, 0.5).has_value());
}

}  // namespace
}  // namespace quire::results
