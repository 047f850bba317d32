#include "workloads/zipf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "workloads/random.h"

namespace quire {
namespace {

std::unique_ptr<ZipfTable> Build(uint64_t ranks, double theta) {
  auto table = std::make_unique<ZipfTable>();
  BuildZipfTable(ranks, theta, *table);
  return table;
}

// The probability of each rank, exactly.
std::vector<double> ExactProbabilities(uint64_t ranks, double theta) {
  std::vector<double> probabilities(ranks);
  double total = 0;
  for (uint64_t rank = 0; rank < ranks; ++rank) total += probabilities[rank] = std::pow(rank + 1.0, -theta);
  for (double& probability : probabilities) probability /= total;
  return probabilities;
}

// The probability with which the table gives each rank.
std::vector<double> TableProbabilities(const ZipfTable& table) {
  std::vector<double> bucket(table.buckets);
  for (uint32_t i = 0; i < table.buckets; ++i) {
    const double keep = table.bucket[i].keep / 0x1p32;
    bucket[i] += keep / table.buckets;
    bucket[table.bucket[i].alias] += (1 - keep) / table.buckets;
  }
  std::vector<double> probabilities(table.ranks);
  for (uint32_t i = 0; i < table.buckets; ++i)
    for (uint32_t j = 0; j < table.bucket[i].width; ++j)
      probabilities[table.bucket[i].first + j] = bucket[i] / table.bucket[i].width;
  return probabilities;
}

TEST(Zipf, EachRankIsAsProbableAsItShouldBe) {
  for (double theta : {0.0, 0.5, 0.99, 1.0, 1.5}) {
    for (uint64_t ranks : {1, 2, 3, 128, 129, 1000, 65536, 1000003}) {
      const std::unique_ptr<ZipfTable> table = Build(ranks, theta);
      const std::vector<double> exact = ExactProbabilities(ranks, theta);
      const std::vector<double> found = TableProbabilities(*table);
      double worst = 0;
      for (uint64_t rank = 0; rank < ranks; ++rank) worst = std::max(worst, std::abs(found[rank] / exact[rank] - 1));
      EXPECT_LT(worst, theta == 0.99 ? 0.008 : theta / 64 + 0.0001) << "theta " << theta << " ranks " << ranks;
    }
  }
}

TEST(Zipf, SingleRanksAreExact) {
  const std::unique_ptr<ZipfTable> table = Build(65536, 0.99);
  const std::vector<double> exact = ExactProbabilities(65536, 0.99);
  const std::vector<double> found = TableProbabilities(*table);
  for (uint64_t rank = 0; rank < 128; ++rank) EXPECT_NEAR(found[rank] / exact[rank], 1, 1e-5);
}

// Pearson's chi-square test of samples against the exact distribution, over groups of ranks of about equal probability.
TEST(Zipf, SamplesFollowTheExactDistribution) {
  constexpr uint64_t kRanks = 65536;
  constexpr int kGroups = 100, kSamples = 2000000;
  const std::unique_ptr<ZipfTable> table = Build(kRanks, 0.99);
  const std::vector<double> exact = ExactProbabilities(kRanks, 0.99);
  std::vector<int> group_of(kRanks);
  std::vector<double> expected(kGroups + 1), seen(kGroups + 1);
  double sum = 0;
  for (uint64_t rank = 0; rank < kRanks; ++rank) {
    group_of[rank] = static_cast<int>(sum * kGroups);
    expected[group_of[rank]] += exact[rank] * kSamples;
    sum += exact[rank];
  }
  Random random(2024);
  for (int i = 0; i < kSamples; ++i) {
    const uint64_t rank = ZipfRank(*table, random);
    ASSERT_LT(rank, kRanks);
    seen[group_of[rank]] += 1;
  }
  double chi_square = 0;
  int groups = 0;
  for (int i = 0; i <= kGroups; ++i) {
    if (expected[i] == 0) continue;
    ++groups;
    chi_square += (seen[i] - expected[i]) * (seen[i] - expected[i]) / expected[i];
  }
  // Mean groups - 1, standard deviation sqrt(2 (groups - 1)); the seed is fixed, so this never fails by chance.
  EXPECT_LT(chi_square, groups - 1 + 4 * std::sqrt(2.0 * (groups - 1)));
  EXPECT_GT(groups, 50);
}

TEST(Zipf, LargestTableFits) {
  const std::unique_ptr<ZipfTable> table = Build(0xffffffff, 0.99);
  EXPECT_LE(table->buckets, kMaxZipfBuckets);
  const ZipfBucket& last = table->bucket[table->buckets - 1];
  EXPECT_EQ(uint64_t{last.first} + last.width, 0xffffffff);
  Random random(1);
  uint64_t largest = 0;
  for (int i = 0; i < 100000; ++i) largest = std::max(largest, ZipfRank(*table, random));
  EXPECT_GT(largest, 0xf0000000);
}

}  // namespace
}  // namespace quire
