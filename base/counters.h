// Counters for statistics. They order nothing: whoever reads several of them may see them from different moments.
#ifndef QUIRE_BASE_COUNTERS_H_
#define QUIRE_BASE_COUNTERS_H_

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace quire {

// Counts events. Thread safe.
class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Counts events of one thread; any thread may read it. A plain addition, for paths of a few nanoseconds, where the
// locked one of Counter would show.
class SingleWriterCounter {
 public:
  void Add(uint64_t n = 1) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// A level that goes up and down and is never negative at rest. Thread safe.
class Gauge {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  void Subtract(uint64_t n = 1) { value_.fetch_sub(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// The highest value that a level was seen at. Thread safe.
class Peak {
 public:
  void Note(uint64_t value) {
    uint64_t highest = value_.load(std::memory_order_relaxed);
    while (highest < value && !value_.compare_exchange_weak(highest, value, std::memory_order_relaxed)) {
    }
  }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// A distribution of durations, from 1 ns up, each kept to within 1/16: log-linear buckets, 16 to a power of two (the
// layout of HdrHistogram). 7.5 KiB. Thread safe and lock-free.
class LatencyHistogram {
 public:
  // A negative duration counts as zero.
  void Record(absl::Duration duration, uint64_t times = 1);
  // Adds what the other one has recorded.
  void Add(const LatencyHistogram& other);

  uint64_t count() const;
  // The duration that `percentile` (0 to 100) percent of the recorded ones do not exceed, rounded up to its bucket's
  // upper end; zero if nothing has been recorded.
  absl::Duration Percentile(double percentile) const;

  // Coarser, for others to read: durations below `end`, and not below the one before.
  struct Range {
    absl::Duration end;
    uint64_t count;
  };
  // Four to a power of two, the same ones always: the first has all below 64 ns, the last all from a minute on.
  std::vector<Range> Ranges() const;

 private:
  static constexpr int kSubBits = 4;
  static constexpr uint64_t kSubBuckets = uint64_t{1} << kSubBits;
  // Nanoseconds fit in 63 bits. The first kSubBuckets buckets hold one value each; then kSubBuckets for each bit.
  static constexpr size_t kBuckets = (63 - kSubBits + 1) * kSubBuckets;

  static size_t BucketOf(uint64_t nanoseconds) {
    if (nanoseconds < kSubBuckets) return nanoseconds;
    const int shift = std::bit_width(nanoseconds) - 1 - kSubBits;
    return (shift + 1) * kSubBuckets + (nanoseconds >> shift) % kSubBuckets;
  }
  static uint64_t UpperEnd(size_t bucket) {
    if (bucket < kSubBuckets) return bucket;
    const int shift = static_cast<int>(bucket / kSubBuckets) - 1;
    return ((kSubBuckets + bucket % kSubBuckets + 1) << shift) - 1;
  }

  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
};

}  // namespace quire

#endif  // QUIRE_BASE_COUNTERS_H_
