#include "guest/huge/granularity.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

// A guest's faults, each answered as the policy says.
class GranularityTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 256;
  static constexpr uint64_t kAdvised = 200;  // the block that the guest has asked for

  Granularity Fault(uint64_t block, uint64_t index) {
    const bool after_stream = block > 0 && CameJustBefore(whole_fault_[block - 1], number_);
    const Granularity chosen = ChooseGranularity(options_, histories_[block],
                                                 {.index = index,
                                                  .number = number_++,
                                                  .after_stream = after_stream,
                                                  .may_be_whole = MayBeWhole(PolicyOf(options_), block == kAdvised)});
    const uint64_t run_end = (index / 16 + 1) * 16;
    histories_[block].next_expected = static_cast<uint16_t>(chosen == Granularity::kPage  ? index + 1
                                                            : chosen == Granularity::kRun ? run_end
                                                                                          : 512);
    if (chosen == Granularity::kBlock) whole_fault_[block] = (number_ - 1) | 1;
    return chosen;
  }

  GranularityOptions options_;
  std::vector<FaultHistory> histories_ = std::vector<FaultHistory>(kBlocks);
  std::vector<uint32_t> whole_fault_ = std::vector<uint32_t>(kBlocks);
  uint32_t number_ = 0xffff'fff0;  // wraps around soon
};

TEST_F(GranularityTest, AFirstFaultIsForAPage) { EXPECT_EQ(Fault(3, 77), Granularity::kPage); }

TEST_F(GranularityTest, AStreamGrowsToTheBlockWithinThreeFaults) {
  EXPECT_EQ(Fault(3, 0), Granularity::kPage);
  EXPECT_EQ(Fault(3, 1), Granularity::kRun);
  EXPECT_EQ(Fault(3, 16), Granularity::kBlock);
}

TEST_F(GranularityTest, AStreamGoesOnInTheNextBlockAtOnce) {
  for (uint64_t index : {0, 1, 16}) Fault(3, index);
  EXPECT_EQ(Fault(4, 0), Granularity::kBlock);
  EXPECT_EQ(Fault(5, 1), Granularity::kBlock) << "another vCPU may be first";
  EXPECT_EQ(Fault(7, 0), Granularity::kPage) << "it did not come past here";
  EXPECT_EQ(Fault(6, 100), Granularity::kPage) << "that is not where it goes on";
}

TEST_F(GranularityTest, SeveralStreamsMayBeUnderWayAtOnce) {
  for (uint64_t stream : {10, 60, 110}) {
    for (uint64_t index : {0, 1, 16}) Fault(stream, index);
  }
  for (uint64_t ahead = 1; ahead < 40; ++ahead) {
    for (uint64_t stream : {10, 60, 110}) EXPECT_EQ(Fault(stream + ahead, 0), Granularity::kBlock);
  }
}

TEST_F(GranularityTest, AStreamThatHasLongEndedDoesNotGoOn) {
  for (uint64_t index : {0, 1, 16}) Fault(3, index);
  for (uint64_t i = 0; i < 20; ++i) Fault(100 + i, 77);
  EXPECT_EQ(Fault(4, 0), Granularity::kPage);
}

TEST_F(GranularityTest, ConcentrationOnABlockBringsItInWhateverTheOrder) {
  int faults = 1;
  for (uint64_t index = 300; Fault(9, index % 512) != Granularity::kBlock; index += 111) ++faults;
  EXPECT_EQ(faults, options_.concentrated_faults);
}

TEST_F(GranularityTest, TwoBlocksInTurnAreConcentrationToo) {
  int blocks = 0;
  for (uint64_t i = 0; i < 2u * options_.concentrated_faults; ++i)
    blocks += Fault(i % 2, i * 37 % 512) == Granularity::kBlock;
  EXPECT_EQ(blocks, 2);
}

TEST_F(GranularityTest, RandomFaultsPayForSinglePages) {
  std::minstd_rand random(1);
  int blocks = 0;
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t page = random() % (kBlocks * 512);
    blocks += Fault(page / 512, page % 512) == Granularity::kBlock;
  }
  EXPECT_LT(blocks, 100);
}

TEST_F(GranularityTest, WithoutBlocksAStreamGetsRuns) {
  options_.blocks = false;
  EXPECT_EQ(Fault(3, 0), Granularity::kPage);
  for (uint64_t index : {1, 16, 32, 48, 64, 80, 96, 112, 128, 144}) EXPECT_EQ(Fault(3, index), Granularity::kRun);
}

TEST_F(GranularityTest, WhereOnlyAdvisedBlocksMayBeWholeAStreamInAnotherGetsRuns) {
  options_.advised_only = true;
  Fault(3, 0);
  for (uint64_t index : {1, 16, 32, 48}) EXPECT_EQ(Fault(3, index), Granularity::kRun);
  for (uint64_t index : {0, 1}) Fault(kAdvised, index);
  EXPECT_EQ(Fault(kAdvised, 16), Granularity::kBlock);
}

TEST_F(GranularityTest, WhereOnlyAdvisedBlocksMayBeWholeConcentrationOnAnotherGetsPages) {
  options_.advised_only = true;
  for (int i = 0; i < 2 * options_.concentrated_faults; ++i) {
    EXPECT_EQ(Fault(3, static_cast<uint64_t>(i) * 111 % 512), Granularity::kPage);
  }
}

TEST(MayBeWholeTest, AdviceCountsOnlyWhereItIsAskedFor) {
  for (const bool advised : {false, true}) {
    EXPECT_TRUE(MayBeWhole(PolicyOf({}), advised));
    EXPECT_EQ(MayBeWhole(PolicyOf({.advised_only = true}), advised), advised);
    EXPECT_FALSE(MayBeWhole(PolicyOf({.blocks = false}), advised));
    EXPECT_FALSE(MayBeWhole(PolicyOf({.blocks = false, .advised_only = true}), advised));
  }
}

TEST(CameWholeLatelyTest, UntilHalfOfThePoolHasBeenEvicted) {
  constexpr PageCount kPool(1000);
  FaultHistory history;
  EXPECT_FALSE(CameWholeLately(history, 0, kPool)) << "never";
  NoteWhole(history, 0xffff'ffff);  // the count wraps around
  EXPECT_TRUE(CameWholeLately(history, 0xffff'ffff, kPool));
  EXPECT_TRUE(CameWholeLately(history, 498, kPool));
  EXPECT_FALSE(CameWholeLately(history, 499, kPool));
}

}  // namespace
}  // namespace quire
