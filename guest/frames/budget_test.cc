#include "guest/frames/budget.h"

#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr PageCount kLimit = PageCount::OfBlocks(16);

TEST(BudgetTest, ChargesUpToTheLimitAndNoFurther) {
  Budget budget(kLimit);
  EXPECT_TRUE(budget.TryCharge(kLimit - kOnePage, Reserve::kReclaim));
  EXPECT_FALSE(budget.TryCharge(PageCount(2), Reserve::kReclaim));
  EXPECT_EQ(budget.charged(), kLimit - kOnePage);
  EXPECT_TRUE(budget.TryCharge(kOnePage, Reserve::kReclaim));
  EXPECT_FALSE(budget.TryCharge(kOnePage, Reserve::kReclaim));
  EXPECT_EQ(budget.charged(), kLimit);
}

TEST(BudgetTest, WhatLiesBelowMinIsForReclaimAlone) {
  Budget budget(kLimit);
  const PageCount normal = kLimit - budget.watermarks().min;
  EXPECT_FALSE(budget.TryCharge(normal + kOnePage, Reserve::kNormal));
  EXPECT_TRUE(budget.TryCharge(normal, Reserve::kNormal));
  EXPECT_FALSE(budget.TryCharge(kOnePage, Reserve::kNormal));
  EXPECT_TRUE(budget.TryCharge(kOnePage, Reserve::kReclaim));
}

TEST(BudgetTest, ThePeakStaysWhenChargesGo) {
  Budget budget(kLimit);
  EXPECT_TRUE(budget.TryCharge(PageCount(700), Reserve::kNormal));
  budget.Uncharge(PageCount(600));
  EXPECT_TRUE(budget.TryCharge(PageCount(100), Reserve::kNormal));
  EXPECT_EQ(budget.charged(), PageCount(200));
  EXPECT_EQ(budget.peak(), PageCount(700));
}

TEST(BudgetDeathTest, UnchargingMoreThanIsChargedStopsTheProgram) {
  Budget budget(kLimit);
  EXPECT_TRUE(budget.TryCharge(kOnePage, Reserve::kNormal));
  EXPECT_DEATH(budget.Uncharge(PageCount(2)), "broken invariant");
}

TEST(WatermarksTest, AreInOrderAndLeaveMostOfAnyPoolToItsGuests) {
  for (PageCount limit = MinimumPoolLimit(); limit < PageCount::OfBlocks(1 << 20); limit = limit * 2) {
    const Watermarks w = Watermarks::ForLimit(limit);
    EXPECT_GE(w.min, PageCount::OfBlocks(2)) << limit;  // a block each for two who reclaim at the same time
    EXPECT_LT(w.min, w.low) << limit;
    EXPECT_LT(w.low, w.high) << limit;
    EXPECT_LE(w.high * 2, limit) << limit;
  }
}

TEST(BudgetTest, ThreadsTogetherNeverChargeMoreThanTheLimit) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 20'000;
  Budget budget(PageCount(100));  // its watermarks are above the limit: only reclaim gets anything
  ASSERT_FALSE(budget.TryCharge(kOnePage, Reserve::kNormal));
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&budget, t] {
      const PageCount pages(20 + 11 * t);  // 20 to 53: any two fit, most threes do not
      for (int i = 0; i < kRounds; ++i) {
        if (!budget.TryCharge(pages, Reserve::kReclaim)) continue;
        EXPECT_LE(budget.charged(), budget.limit());
        budget.Uncharge(pages);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(budget.charged(), PageCount());
  EXPECT_LE(budget.peak(), budget.limit());
  EXPECT_GE(budget.peak(), PageCount(53));
}

}  // namespace
}  // namespace quire
