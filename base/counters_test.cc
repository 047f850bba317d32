#include "base/counters.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(PeakTest, KeepsTheHighestValue) {
  Peak peak;
  EXPECT_EQ(peak.value(), 0u);
  for (const uint64_t value : {3, 7, 5, 7}) peak.Note(value);
  EXPECT_EQ(peak.value(), 7u);
}

TEST(CounterTest, LosesNothingBetweenThreads) {
  Counter counter;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) counter.Add();
      counter.Add(5);
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(counter.value(), 4 * 10'005u);
}

TEST(CounterTest, SingleWriterCounterCanBeReadMeanwhile) {
  SingleWriterCounter counter;
  std::thread writer([&] {
    for (int i = 0; i < 10'000; ++i) counter.Add(2);
  });
  for (uint64_t last = 0; last < 20'000;) {
    const uint64_t now = counter.value();
    ASSERT_GE(now, last);
    ASSERT_EQ(now % 2, 0u);
    last = now;
  }
  writer.join();
  EXPECT_EQ(counter.value(), 20'000u);
}

TEST(GaugeTest, GoesUpAndDown) {
  Gauge gauge;
  gauge.Add(7);
  gauge.Subtract(3);
  EXPECT_EQ(gauge.value(), 4u);
}

TEST(LatencyHistogramTest, EmptyIsZero) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.Percentile(50), absl::ZeroDuration());
}

TEST(LatencyHistogramTest, SmallValuesAreExact) {
  LatencyHistogram histogram;
  for (int ns = 1; ns <= 10; ++ns) histogram.Record(absl::Nanoseconds(ns));
  EXPECT_EQ(histogram.count(), 10u);
  EXPECT_EQ(histogram.Percentile(0), absl::Nanoseconds(1));
  EXPECT_EQ(histogram.Percentile(50), absl::Nanoseconds(5));
  EXPECT_EQ(histogram.Percentile(100), absl::Nanoseconds(10));
}

TEST(LatencyHistogramTest, ExtremesHaveBuckets) {
  LatencyHistogram histogram;
  histogram.Record(-absl::Seconds(1));
  EXPECT_EQ(histogram.Percentile(100), absl::ZeroDuration());
  histogram.Record(absl::InfiniteDuration());
  EXPECT_EQ(histogram.Percentile(100), absl::Nanoseconds(INT64_MAX));
}

// Against sorted samples: never below the true percentile, above it by at most a sixteenth.
TEST(LatencyHistogramTest, PercentilesAreWithinASixteenth) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(0, 40);
  LatencyHistogram histogram;
  std::vector<int64_t> samples;
  for (int i = 0; i < 10'000; ++i) {
    samples.push_back(static_cast<int64_t>(std::exp2(exponent(random))));
    histogram.Record(absl::Nanoseconds(samples.back()));
  }
  std::sort(samples.begin(), samples.end());
  for (const double percentile : {1.0, 10.0, 50.0, 90.0, 99.0, 99.9}) {
    const int64_t wanted = samples[static_cast<size_t>(std::ceil(percentile / 100 * samples.size())) - 1];
    const int64_t got = absl::ToInt64Nanoseconds(histogram.Percentile(percentile));
    EXPECT_GE(got, wanted) << percentile;
    EXPECT_LE(got, wanted + wanted / 16) << percentile;
  }
}

TEST(LatencyHistogramTest, RangesAreTheSameWhateverWasRecordedAndHoldAllOfIt) {
  LatencyHistogram histogram;
  const std::vector<LatencyHistogram::Range> empty = histogram.Ranges();
  histogram.Record(absl::Nanoseconds(1));
  histogram.Record(absl::Nanoseconds(63), 10);
  histogram.Record(absl::Nanoseconds(64), 100);
  histogram.Record(absl::Hours(1), 1000);
  const std::vector<LatencyHistogram::Range> ranges = histogram.Ranges();
  ASSERT_EQ(ranges.size(), empty.size());
  uint64_t all = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    EXPECT_EQ(ranges[i].end, empty[i].end);
    if (i > 0) {
      EXPECT_GT(ranges[i].end, ranges[i - 1].end);
      EXPECT_LE(ranges[i].end, ranges[i - 1].end * 5 / 4);
    }
    all += ranges[i].count;
  }
  EXPECT_EQ(all, 1111u);
  EXPECT_EQ(ranges[0].end, absl::Nanoseconds(64));
  EXPECT_EQ(ranges[0].count, 11u);
  EXPECT_EQ(ranges[1].count, 100u);
  EXPECT_EQ(ranges.back().count, 1000u);
}

}  // namespace
}  // namespace quire
