#include "guest/island_budget.h"

#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class IslandBudgetFilesTest : public ::testing::Test {
 protected:
  static std::string Write(const std::string& name, const std::string& content) {
    const std::string path = absl::StrCat(::testing::TempDir(), "/", name);
    std::ofstream(path) << content;
    return path;
  }
  static std::string Maps(int mappings) {
    std::string content;
    for (int i = 0; i < mappings; ++i) absl::StrAppend(&content, "7f0000000000-7f0000001000 rw-p 00000000 00:00 0\n");
    return Write("maps", content);
  }
};

TEST_F(IslandBudgetFilesTest, TheLimitIsHalfOfWhatIsLeftLessAReserve) {
  const std::string most = Write("max_map_count", "65530\n");
  EXPECT_EQ(*IslandBudget::LimitOfProcess({.max_map_count = most, .maps = Maps(34)}), PageCount(30'700));
  EXPECT_EQ(*IslandBudget::LimitOfProcess({.max_map_count = most, .maps = Maps(1034)}), PageCount(30'200));
  EXPECT_EQ(*IslandBudget::LimitOfProcess({.max_map_count = most, .maps = Maps(34)}, /*guests=*/100),
            PageCount(30'700 - 600));
}

TEST_F(IslandBudgetFilesTest, AProcessWithFewMappingsLeftMayHaveNone) {
  const std::string maps = Maps(100);
  for (int most : {0, 99, 4000, 4196, 4197}) {
    const std::string path = Write("max_map_count", absl::StrCat(most, "\n"));
    EXPECT_EQ(*IslandBudget::LimitOfProcess({.max_map_count = path, .maps = maps}), PageCount()) << most;
  }
  const std::string path = Write("max_map_count", "4198\n");
  EXPECT_EQ(*IslandBudget::LimitOfProcess({.max_map_count = path, .maps = maps}), kOnePage);
}

TEST_F(IslandBudgetFilesTest, AFileThatCannotBeReadIsAnErrorThatNamesIt) {
  const std::string most = Write("max_map_count", "65530\n");
  EXPECT_THAT(std::string(IslandBudget::LimitOfProcess({.max_map_count = "/none"}).status().message()),
              HasSubstr("cannot read /none"));
  EXPECT_THAT(std::string(IslandBudget::LimitOfProcess({.max_map_count = most, .maps = "/none"}).status().message()),
              HasSubstr("cannot read /none"));
  const std::string nonsense = Write("max_map_count", "many\n");
  EXPECT_FALSE(IslandBudget::LimitOfProcess({.max_map_count = nonsense}).ok());
}

TEST_F(IslandBudgetFilesTest, ThisProcessMayHaveSome) {
  const absl::StatusOr<PageCount> limit = IslandBudget::LimitOfProcess();
  ASSERT_TRUE(limit.ok()) << limit.status();
  EXPECT_GT(*limit, PageCount());
}

TEST(IslandBudgetTest, ChargesUpToItsLimitAndCountsRefusals) {
  IslandBudget budget(PageCount(10));
  EXPECT_TRUE(budget.TryCharge(PageCount(8)));
  EXPECT_FALSE(budget.TryCharge(PageCount(3)));
  EXPECT_EQ(budget.charged(), PageCount(8));
  EXPECT_TRUE(budget.TryCharge(PageCount(2)));
  EXPECT_FALSE(budget.TryCharge(kOnePage));
  budget.Uncharge(PageCount(10));
  EXPECT_EQ(budget.charged(), PageCount());
  EXPECT_EQ(budget.peak(), PageCount(10));
  EXPECT_EQ(budget.refused(), 2u);
}

TEST(IslandBudgetTest, WithALimitOfZeroNothingIsShared) {
  IslandBudget budget{PageCount()};
  EXPECT_FALSE(budget.TryCharge(kOnePage));
  EXPECT_TRUE(budget.TryCharge(PageCount()));
}

TEST(IslandBudgetDeathTest, GivingBackMoreThanWasChargedIsABug) {
  IslandBudget budget(PageCount(10));
  EXPECT_DEATH(budget.Uncharge(kOnePage), "");
}

TEST(IslandBudgetTest, ThreadsNeverPassTheLimitTogether) {
  constexpr PageCount kLimit(100);
  IslandBudget budget(kLimit);
  std::atomic<uint64_t> charged = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        if (budget.TryCharge(kOnePage)) ++charged;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(charged, 100u);
  EXPECT_EQ(budget.charged(), kLimit);
  EXPECT_EQ(budget.peak(), kLimit);
  EXPECT_EQ(budget.refused(), 100u);
}

}  // namespace
}  // namespace quire
