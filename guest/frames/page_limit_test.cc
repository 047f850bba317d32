#include "guest/frames/page_limit.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(PageLimitTest, ChargesUpToTheLimitAndKeepsThePeak) {
  PageLimit limit(PageCount(10));
  EXPECT_TRUE(limit.limited());
  EXPECT_TRUE(limit.TryCharge(PageCount(7)));
  EXPECT_FALSE(limit.TryCharge(PageCount(4)));
  EXPECT_EQ(limit.charged(), PageCount(7));
  EXPECT_TRUE(limit.HasRoomFor(PageCount(3)));
  EXPECT_FALSE(limit.HasRoomFor(PageCount(4)));
  EXPECT_TRUE(limit.TryCharge(PageCount(3)));
  limit.Uncharge(PageCount(9));
  EXPECT_EQ(limit.charged(), PageCount(1));
  EXPECT_EQ(limit.peak(), PageCount(10));
}

TEST(PageLimitTest, AReplacementPassesTheLimitButIsNoPeak) {
  PageLimit limit(PageCount(10));
  ASSERT_TRUE(limit.TryCharge(PageCount(10)));
  limit.ChargeReplacement(kOnePage);
  EXPECT_EQ(limit.charged(), PageCount(11));
  limit.Uncharge(kOnePage);
  EXPECT_FALSE(limit.TryCharge(kOnePage));
  EXPECT_EQ(limit.peak(), PageCount(10));
}

TEST(PageLimitTest, WithoutALimitThereIsAlwaysRoom) {
  PageLimit none{PageCount()};
  EXPECT_FALSE(none.limited());
  EXPECT_TRUE(none.TryCharge(PageCount(uint64_t{1} << 40)));
  EXPECT_TRUE(none.HasRoomFor(PageCount(uint64_t{1} << 40)));
  none.ChargeReplacement(kOnePage);
  none.Uncharge(PageCount(5));
  EXPECT_EQ(none.charged(), PageCount((uint64_t{1} << 40) - 4));
  EXPECT_EQ(none.peak(), PageCount(uint64_t{1} << 40));
  EXPECT_TRUE(none.Allows(PageCount(uint64_t{1} << 41)));
}

TEST(PageLimitTest, ALimitThatIsLoweredLeavesWhatIsChargedAndTakesNoMore) {
  PageLimit limit{PageCount()};
  ASSERT_TRUE(limit.TryCharge(PageCount(20)));
  limit.SetLimit(PageCount(10));
  EXPECT_EQ(limit.charged(), PageCount(20));
  EXPECT_TRUE(limit.Allows(PageCount(20)));
  EXPECT_FALSE(limit.Allows(PageCount(21)));
  EXPECT_FALSE(limit.TryCharge(kOnePage));
  limit.Uncharge(PageCount(11));
  EXPECT_TRUE(limit.TryCharge(kOnePage));
  EXPECT_FALSE(limit.TryCharge(kOnePage));
  limit.SetLimit(PageCount(11));
  EXPECT_TRUE(limit.TryCharge(kOnePage));
  EXPECT_FALSE(limit.Allows(PageCount(12)));
  limit.SetLimit(PageCount());
  EXPECT_TRUE(limit.TryCharge(PageCount(100)));
}

TEST(PageLimitTest, ThreadsTogetherNeverPassIt) {
  PageLimit limit(PageCount(100));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20'000; ++i) {
        if (limit.TryCharge(PageCount(30))) limit.Uncharge(PageCount(30));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(limit.charged(), PageCount());
  EXPECT_LE(limit.peak(), PageCount(100));
  EXPECT_GE(limit.peak(), PageCount(30));
}

}  // namespace
}  // namespace quire
