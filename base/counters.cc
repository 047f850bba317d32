#include "base/counters.h"

#include <algorithm>
#include <cmath>

namespace quire {

void LatencyHistogram::Record(absl::Duration duration, uint64_t times) {
  const int64_t nanoseconds = std::max<int64_t>(absl::ToInt64Nanoseconds(duration), 0);
  buckets_[BucketOf(nanoseconds)].fetch_add(times, std::memory_order_relaxed);
}

void LatencyHistogram::Add(const LatencyHistogram& other) {
  for (size_t i = 0; i < kBuckets; ++i) {
    buckets_[i].fetch_add(other.buckets_[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
}

uint64_t LatencyHistogram::count() const {
  uint64_t total = 0;
  for (const auto& bucket : buckets_) total += bucket.load(std::memory_order_relaxed);
  return total;
}

absl::Duration LatencyHistogram::Percentile(double percentile) const {
  const double share = std::clamp(percentile, 0.0, 100.0) / 100;
  // Entries recorded while this runs can only add to what is found, so the loop ends before the last bucket does.
  const uint64_t rank = std::max<uint64_t>(std::ceil(share * count()), 1);
  uint64_t seen = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    seen += buckets_[i].load(std::memory_order_relaxed);
    if (seen >= rank) return absl::Nanoseconds(UpperEnd(i));
  }
  return absl::ZeroDuration();
}

std::vector<LatencyHistogram::Range> LatencyHistogram::Ranges() const {
  constexpr size_t kJoined = kSubBuckets / 4;
  constexpr uint64_t kShort = 64, kLong = uint64_t{1} << 36;
  std::vector<Range> ranges;
  uint64_t count = 0;
  for (size_t i = 0; i < kBuckets; i += kJoined) {
    for (size_t j = i; j < i + kJoined; ++j) count += buckets_[j].load(std::memory_order_relaxed);
    const uint64_t end = UpperEnd(i + kJoined - 1) + 1;
    if (end < kShort) continue;
    if (end > kLong) {
      ranges.back().count += count;
    } else {
      ranges.push_back({.end = absl::Nanoseconds(end), .count = count});
    }
    count = 0;
  }
  return ranges;
}

}  // namespace quire
