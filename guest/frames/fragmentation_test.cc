#include "guest/frames/fragmentation.h"

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(FragmentationTest, NothingFreeIsLackOfMemory) {
  EXPECT_EQ(UnusableFreeIndex({}, 9), 1000);
  EXPECT_EQ(FragmentationIndex({}, 9), 0);
}

TEST(FragmentationTest, TheUnusablePartIsWhatLiesInSmallerRuns) {
  FreeRuns runs = {};
  runs[9] = 3;
  EXPECT_EQ(UnusableFreeIndex(runs, 9), 0);
  runs[0] = 512;
  EXPECT_EQ(UnusableFreeIndex(runs, 9), 250);
  EXPECT_EQ(UnusableFreeIndex(runs, 0), 0);
  runs[9] = 0;
  EXPECT_EQ(UnusableFreeIndex(runs, 9), 1000);
}

TEST(FragmentationTest, ARunThatFitsMeansNoFailure) {
  FreeRuns runs = {};
  runs[0] = 10'000;
  runs[9] = 1;
  EXPECT_EQ(FragmentationIndex(runs, 9), -1000);
  EXPECT_EQ(FragmentationIndex(runs, 0), -1000);
}

TEST(FragmentationTest, ManySmallRunsAreFragmentationAndAFewAreLackOfMemory) {
  FreeRuns runs = {};
  runs[0] = 2'000;
  // 1000 - (1000 + 2000 * 1000 / 512) / 2000
  EXPECT_EQ(FragmentationIndex(runs, 9), 998);
  runs[0] = 2;
  EXPECT_EQ(FragmentationIndex(runs, 9), 1000 - (1000 + 3) / 2);
  EXPECT_LE(FragmentationIndex(runs, 9), kFragmentationThreshold);
  runs = {};
  runs[8] = 1;
  EXPECT_EQ(FragmentationIndex(runs, 9), 0);
}

}  // namespace
}  // namespace quire
