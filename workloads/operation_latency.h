// How long each operation of a workload took, as its guest sees it: counts by time, in ticks of the time-stamp counter.
// Freestanding: also compiled into the payload of KVM guests.
//
// Log-linear buckets, 4 to a power of two (the layout of HdrHistogram): a time is kept to within a quarter, and a
// vCPU's table takes 21 cache lines.
#ifndef QUIRE_WORKLOADS_OPERATION_LATENCY_H_
#define QUIRE_WORKLOADS_OPERATION_LATENCY_H_

#include <stdint.h>

namespace quire {

// The counter runs at one speed, and in step on all processors, wherever KVM runs at all.
inline uint64_t ReadTicks() { return __builtin_ia32_rdtsc(); }

// Written by one vCPU; read by the host at any time.
struct OperationLatency {
  static constexpr uint32_t kSubBits = 2;
  static constexpr uint64_t kSubBuckets = uint64_t{1} << kSubBits;
  static constexpr uint32_t kBits = 43;  // longer ones count as 2^43 ticks: an hour or so
  static constexpr uint32_t kBuckets = (kBits - kSubBits + 1) * kSubBuckets;

  uint64_t counts[kBuckets];

  static constexpr uint32_t BucketOf(uint64_t ticks) {
    if (ticks < kSubBuckets) return static_cast<uint32_t>(ticks);
    const uint32_t shift = 63 - static_cast<uint32_t>(__builtin_clzll(ticks)) - kSubBits;
    if (shift + kSubBits >= kBits) return kBuckets - 1;
    return static_cast<uint32_t>((shift + 1) * kSubBuckets + (ticks >> shift) % kSubBuckets);
  }
  // The least number of ticks that belongs to a later bucket.
  static constexpr uint64_t EndOf(uint32_t bucket) {
    if (bucket < kSubBuckets) return bucket + 1;
    const uint64_t shift = bucket / kSubBuckets - 1;
    return (kSubBuckets + bucket % kSubBuckets + 1) << shift;
  }

  void Count(uint64_t ticks) {
    uint64_t& count = counts[BucketOf(ticks)];
    __atomic_store_n(&count, count + 1, __ATOMIC_RELAXED);
  }
};

}  // namespace quire

#endif  // QUIRE_WORKLOADS_OPERATION_LATENCY_H_
