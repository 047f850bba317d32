// Zipf-distributed ranks in constant time without libm: rank r of n, counted from 0, has probability proportional to
// (r + 1)^-theta. Freestanding, but for BuildZipfTable, which the host calls.
//
// The ranks are cut into buckets: one rank each at first, then at most 1/64 as wide as the rank they begin at. The
// alias method (Walker, "An Efficient Method for Generating Discrete Random Variables with General Distributions",
// 1977, built by Vose's algorithm, 1991) picks a bucket with its exact probability, to 2^-32; within a bucket ranks are
// uniform. So a single rank's probability is off by less than theta / 64 of itself (at the default exponent below
// 0.8 %: the error is largest at a bucket's edges, half its width away from the mean), and the table takes tens of
// kilobytes however many pages there are.
#ifndef QUIRE_WORKLOADS_ZIPF_H_
#define QUIRE_WORKLOADS_ZIPF_H_

#include <stdint.h>

#include "workloads/random.h"

namespace quire {

struct ZipfBucket {
  uint32_t first;  // rank the bucket begins at
  uint32_t width;  // number of ranks
  uint32_t keep;   // a draw below this many 2^-32 stays in this bucket ...
  uint32_t alias;  // ... any other goes to that one
};

// 128 ranks of their own, then ln(2^32 / 128) * 64 buckets, and one more for each width up to 64, rounded up.
inline constexpr uint32_t kMaxZipfBuckets = 1536;

struct ZipfTable {
  uint32_t ranks;    // at most 2^32 - 1
  uint32_t buckets;  // 1 to kMaxZipfBuckets, or 0: not built
  ZipfBucket bucket[kMaxZipfBuckets];
};

// Fills `table` for ranks 0 to ranks - 1, 1 <= ranks < 2^32, exponent theta >= 0. Host only.
void BuildZipfTable(uint64_t ranks, double theta, ZipfTable& table);

// A rank, 0 to table.ranks - 1.
inline uint64_t ZipfRank(const ZipfTable& table, Random& random) {
  const uint64_t draw = random.Next();
  const ZipfBucket* bucket = &table.bucket[(draw >> 32) * table.buckets >> 32];
  if (static_cast<uint32_t>(draw) >= bucket->keep) bucket = &table.bucket[bucket->alias];
  return bucket->first + (bucket->width > 1 ? random.Below(bucket->width) : 0);
}

}  // namespace quire

#endif  // QUIRE_WORKLOADS_ZIPF_H_
