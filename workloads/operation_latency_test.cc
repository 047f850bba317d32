#include "workloads/operation_latency.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(OperationLatencyTest, EveryTimeLiesBelowItsBucketsEndAndNotBelowTheOneBefore) {
  for (uint64_t power = 0; power < OperationLatency::kBits; ++power) {
    for (const uint64_t ticks : {uint64_t{1} << power, (uint64_t{1} << power) * 3 / 2, (uint64_t{2} << power) - 1}) {
      const uint32_t bucket = OperationLatency::BucketOf(ticks);
      EXPECT_LT(ticks, OperationLatency::EndOf(bucket)) << ticks;
      if (bucket > 0) {
        EXPECT_GE(ticks, OperationLatency::EndOf(bucket - 1)) << ticks;
      }
    }
  }
}

TEST(OperationLatencyTest, ABucketIsAtMostAQuarterOfWhatItCounts) {
  for (uint32_t bucket = 4; bucket < OperationLatency::kBuckets; ++bucket) {
    const uint64_t begin = OperationLatency::EndOf(bucket - 1), end = OperationLatency::EndOf(bucket);
    EXPECT_LE((end - begin) * 4, begin) << bucket;
  }
}

TEST(OperationLatencyTest, WhatTakesTooLongIsInTheLastBucket) {
  EXPECT_EQ(OperationLatency::BucketOf(0), 0u);
  EXPECT_EQ(OperationLatency::BucketOf((uint64_t{1} << 43) - 1), OperationLatency::kBuckets - 1);
  EXPECT_EQ(OperationLatency::BucketOf(uint64_t{1} << 43), OperationLatency::kBuckets - 1);
  EXPECT_EQ(OperationLatency::BucketOf(UINT64_MAX), OperationLatency::kBuckets - 1);
}

TEST(OperationLatencyTest, CountsEachTimeOnce) {
  OperationLatency latency = {};
  latency.Count(7);
  latency.Count(7);
  latency.Count(100000);
  EXPECT_EQ(latency.counts[OperationLatency::BucketOf(7)], 2u);
  EXPECT_EQ(latency.counts[OperationLatency::BucketOf(100000)], 1u);
}

}  // namespace
}  // namespace quire
