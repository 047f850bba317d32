#include "workloads/content_ratio.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/units.h"
#include "workloads/content.h"

namespace quire {
namespace {

double Achieved(double ratio, uint64_t key) {
  return MeasureContentRatio(Content{.key = key, .fresh_pairs = FreshPairsFor(ratio, key)}, PageCount(2000));
}

TEST(FreshPairsFor, ContentComesCloseToTheRatioAskedFor) {
  for (double ratio : {1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 10.0}) EXPECT_NEAR(Achieved(ratio, 1), ratio, 0.06 * ratio);
  EXPECT_NEAR(Achieved(kDefaultRatio, 12345), 3, 0.15);
}

TEST(FreshPairsFor, OneMeansIncompressibleButForZeroPages) {
  EXPECT_EQ(FreshPairsFor(1, 1), kMostFreshPairs);
  EXPECT_NEAR(Achieved(1, 1), 1 / 0.9, 0.03);
}

TEST(MeasureContentRatio, FileContent) {
  const std::vector<uint64_t> same_word(kWordsPerPage * 2, 7);
  const Content content{.file_pages = same_word.data(), .file_page_count = 2};
  EXPECT_GT(MeasureContentRatio(content, PageCount(100)), 50);
}

}  // namespace
}  // namespace quire
