#include "workloads/content_ratio.h"

#include <lz4.h>

#include <cmath>

#include "base/check.h"

namespace quire {
namespace {

// Pages that FreshPairsFor measures at each step. Generated pages compress almost equally well.
constexpr uint64_t kSample = 64;

uint64_t CompressedSize(const uint64_t* words) {
  char out[kPageSize];
  const int size = LZ4_compress_default(reinterpret_cast<const char*>(words), out, kPageSize, sizeof out);
  return size > 0 ? static_cast<uint64_t>(size) : kPageSize;
}

// The ratio of generated content with exactly its share of zero pages, whatever share of the sample is zero.
double RatioWith(uint64_t fresh_pairs, uint64_t key) {
  const Content content{.key = key, .fresh_pairs = fresh_pairs};
  alignas(16) uint64_t words[kWordsPerPage] = {};
  const double zero_size = static_cast<double>(CompressedSize(words));
  double size = 0, pages = 0;
  for (uint64_t page = 0; page < kSample; ++page) {
    if (IsZeroPage(content, page, 1)) continue;
    GeneratePage(words, content, page, 1);
    size += static_cast<double>(CompressedSize(words));
    pages += 1;
  }
  constexpr double kZeroShare = 1.0 / kPagesPerZeroPage;
  return kPageSize / ((1 - kZeroShare) * size / pages + kZeroShare * zero_size);
}

}  // namespace

double MeasureContentRatio(const Content& content, PageCount sample) {
  QUIRE_CHECK(sample.in_pages() > 0);
  alignas(16) uint64_t words[kWordsPerPage];
  uint64_t compressed = 0;
  for (uint64_t page = 0; page < sample.in_pages(); ++page) {
    GeneratePage(words, content, page, 1);
    compressed += CompressedSize(words);
  }
  return static_cast<double>(sample.in_bytes()) / static_cast<double>(compressed);
}

uint64_t FreshPairsFor(double ratio, uint64_t key) {
  QUIRE_CHECK(ratio >= kLowestRatio && ratio <= kHighestRatio);
  // More fresh pairs, a lower ratio: find the fewest whose ratio is not above the one asked for.
  uint64_t low = 0, high = kMostFreshPairs;
  while (low < high) {
    const uint64_t middle = (low + high) / 2;
    if (RatioWith(middle, key) <= ratio) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  if (low == 0) return 0;
  const bool one_fewer_is_closer = std::abs(RatioWith(low - 1, key) - ratio) < std::abs(RatioWith(low, key) - ratio);
  return one_fewer_is_closer ? low - 1 : low;
}

}  // namespace quire
