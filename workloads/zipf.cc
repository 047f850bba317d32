#include "workloads/zipf.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"

namespace quire {
namespace {

constexpr uint32_t kRelativeWidth = 64;
constexpr uint32_t kAlways = std::numeric_limits<uint32_t>::max();

void CutIntoBuckets(uint64_t ranks, ZipfTable& table) {
  table.ranks = static_cast<uint32_t>(ranks);
  table.buckets = 0;
  for (uint64_t first = 0; first < ranks;) {
    QUIRE_CHECK(table.buckets < kMaxZipfBuckets);
    const uint64_t width = std::min(std::max<uint64_t>(1, first / kRelativeWidth), ranks - first);
    table.bucket[table.buckets] = {static_cast<uint32_t>(first), static_cast<uint32_t>(width), kAlways, table.buckets};
    ++table.buckets;
    first += width;
  }
}

// Sum of (r + 1)^-theta over the bucket's ranks. Wide buckets by the midpoint rule, which is off by less than
// theta (theta + 1) / (24 * 64^2) of the sum.
double Weight(const ZipfBucket& bucket, double theta) {
  if (bucket.width > 64) return bucket.width * std::pow(bucket.first + 0.5 + bucket.width / 2.0, -theta);
  double sum = 0;
  for (uint32_t i = 0; i < bucket.width; ++i) sum += std::pow(bucket.first + i + 1.0, -theta);
  return sum;
}

// The weights, scaled so that their mean is 1.
std::vector<double> Shares(const ZipfTable& table, double theta) {
  std::vector<double> shares(table.buckets);
  double total = 0;
  for (uint32_t i = 0; i < table.buckets; ++i) total += shares[i] = Weight(table.bucket[i], theta);
  for (double& share : shares) share *= table.buckets / total;
  return shares;
}

}  // namespace

void BuildZipfTable(uint64_t ranks, double theta, ZipfTable& table) {
  QUIRE_CHECK(ranks > 0 && ranks <= std::numeric_limits<uint32_t>::max() && theta >= 0);
  CutIntoBuckets(ranks, table);
  std::vector<double> share = Shares(table, theta);
  // Vose: give each bucket whose share is too small the rest of its slot from one whose share is too large. What is
  // left over at the end has a share of 1 up to rounding and keeps its slot.
  std::vector<uint32_t> small, large;
  for (uint32_t i = 0; i < table.buckets; ++i) (share[i] < 1 ? small : large).push_back(i);
  while (!small.empty() && !large.empty()) {
    const uint32_t poor = small.back(), rich = large.back();
    small.pop_back();
    table.bucket[poor].keep = static_cast<uint32_t>(share[poor] * kAlways);
    table.bucket[poor].alias = rich;
    share[rich] -= 1 - share[poor];
    if (share[rich] < 1) {
      large.pop_back();
      small.push_back(rich);
    }
  }
}

}  // namespace quire
