#include "workloads/linux/known_memory.h"

#include <cstdint>
#include <cstring>

#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr uint64_t kPages = 64;

class KnownMemoryTest : public testing::Test {
 protected:
  // A page that is not zeros in any version but 0.
  uint64_t Written() {
    uint64_t page = 0;
    while (memory_.WordsOf(page)[kWordsPerPage - 1] == 0) ++page;
    return page;
  }

  KnownMemory memory_{7, kPages};
};

TEST_F(KnownMemoryTest, FindsNothingWrongInWhatItWrote) {
  memory_.CheckAll();
  memory_.WriteAll();
  memory_.CheckAll();
  memory_.OfferAndRewrite(3, 20);
  memory_.ReplaceAndRewrite(10, 30);
  memory_.CheckAll();
  EXPECT_EQ(memory_.tally().checked, 3 * kPages + 20 + 30);
  EXPECT_EQ(memory_.tally().wrong, 0u);
}

TEST_F(KnownMemoryTest, WhatIsGivenBackIsZerosUntilItIsWritten) {
  memory_.UseSmallPages();
  memory_.WriteAll();
  memory_.GiveBack(1, kPages - 1);
  memory_.Check(0);
  for (uint64_t page = 1; page < kPages; ++page) memory_.CheckZeros(page);
  EXPECT_EQ(memory_.tally().wrong, 0u);
  memory_.CheckAll();
  EXPECT_NE(memory_.tally().wrong, 0u);
  const uint64_t wrong = memory_.tally().wrong;
  memory_.WriteAll();
  memory_.CheckAll();
  EXPECT_EQ(memory_.tally().wrong, wrong);
}

TEST_F(KnownMemoryTest, CountsEachPageWithAWrongWord) {
  memory_.WriteAll();
  for (uint64_t page = 0; page < kPages; page += 4) memory_.WordsOf(page)[page * 8 % kWordsPerPage] ^= 1;
  memory_.CheckAll();
  EXPECT_EQ(memory_.tally().wrong, kPages / 4);
}

TEST_F(KnownMemoryTest, FindsThePageOfAnEarlierVersionAndOfAnotherPlace) {
  memory_.WriteAll();
  const uint64_t page = Written();
  uint64_t before[kWordsPerPage];
  memcpy(before, memory_.WordsOf(page), sizeof before);
  memory_.Write(page);
  memory_.Check(page);
  EXPECT_EQ(memory_.tally().wrong, 0u);
  memcpy(memory_.WordsOf(page), before, sizeof before);
  memory_.Check(page);
  EXPECT_EQ(memory_.tally().wrong, 1u);
  memcpy(memory_.WordsOf(page + 1), before, sizeof before);
  memory_.Check(page + 1);
  EXPECT_EQ(memory_.tally().wrong, 2u);
}

TEST_F(KnownMemoryTest, AnOfferedPageIsAsItWasOrZerosFromAWordOn) {
  memory_.WriteAll();
  const uint64_t page = Written();
  uint64_t* words = memory_.WordsOf(page);
  memory_.CheckOffered(page);
  memset(words + 100, 0, (kWordsPerPage - 100) * sizeof(uint64_t));
  memory_.CheckOffered(page);
  memset(words, 0, KnownMemory::kPageBytes);
  memory_.CheckOffered(page);
  EXPECT_EQ(memory_.tally().wrong, 0u);
  words[200] = 1;
  memory_.CheckOffered(page);
  EXPECT_EQ(memory_.tally().wrong, 1u);
}

}  // namespace
}  // namespace quire
