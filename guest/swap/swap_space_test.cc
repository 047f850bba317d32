#include "guest/swap/swap_space.h"

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

using Page = std::array<std::byte, kPageSize>;

class SwapSpaceTest : public ::testing::Test {
 protected:
  StoreResult Store(const Page& page) { return store_.Store(page.data(), scratch_); }
  SwapSlot StoreOrDie(const Page& page) {
    const StoreResult result = Store(page);
    EXPECT_EQ(result.outcome, StoreOutcome::kStored);
    return result.slot;
  }
  Page Load(SwapSlot slot) {
    Page page;
    page.fill(std::byte{0xcc});
    EXPECT_EQ(store_.Load(slot, page.data()), absl::OkStatus());
    return page;
  }
  // Leaves no memory in the pool, not even for reclaim.
  std::vector<FrameNumber> TakeAllMemory() {
    std::vector<FrameNumber> frames;
    for (;;) {
      const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
      if (!frame.ok()) return frames;
      frames.push_back(*frame);
    }
  }

  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(8), .reservations = {}, .use_memfd = true}).value();
  SwapSpace store_{*pool_};
  CompressionScratch scratch_;
};

TEST_F(SwapSpaceTest, APageComesBackByteForByteUntilItIsFreed) {
  const Page page = MakePage(Content::kCompressible, 1);
  const SwapSlot slot = StoreOrDie(page);
  EXPECT_EQ(Load(slot), page);
  EXPECT_EQ(Load(slot), page);  // loading frees nothing
  EXPECT_TRUE(store_.IsLive(slot));
  store_.Free(slot);
  EXPECT_FALSE(store_.IsLive(slot));
}

TEST_F(SwapSpaceTest, ACopyIsHeldUntilItsPageChangesOrItIsDropped) {
  const Page page = MakePage(Content::kCompressible, 1);
  Page changed = page;
  changed.back() ^= std::byte{1};
  const SwapSlot slot = StoreOrDie(page);
  ASSERT_TRUE(store_.Keep(slot));
  EXPECT_TRUE(store_.IsKept(slot));
  EXPECT_FALSE(store_.IsLive(slot));
  EXPECT_TRUE(store_.Holds(slot, page.data()));
  EXPECT_FALSE(store_.Holds(slot, changed.data()));
  EXPECT_EQ(store_.Check(), absl::OkStatus());

  ASSERT_TRUE(store_.Revive(slot));
  EXPECT_FALSE(store_.IsKept(slot));
  EXPECT_EQ(Load(slot), page);

  ASSERT_TRUE(store_.Keep(slot));
  EXPECT_GE(store_.DropKept(kOnePage), kOnePage);
  EXPECT_EQ(store_.statistics().held, PageCount());
  EXPECT_FALSE(store_.Holds(slot, page.data()));
  EXPECT_FALSE(store_.Revive(slot));
  const SwapSlot other = StoreOrDie(page);
  EXPECT_NE(other, slot) << "its number is its owner's until that frees it";
  store_.Free(slot);
  store_.Free(other);
  EXPECT_EQ(store_.Check(), absl::OkStatus());
}

TEST_F(SwapSpaceTest, NoCopyIsKeptOfWhatCostsNothingToStore) {
  const SwapSlot slot = StoreOrDie(MakePage(Content::kSameFilled, 5));
  EXPECT_FALSE(store_.Keep(slot));
  store_.Free(slot);
}

TEST_F(SwapSpaceTest, ZeroPagesTakeNoSlot) {
  EXPECT_EQ(Store(MakePage(Content::kZero, 0)).outcome, StoreOutcome::kZero);
  EXPECT_EQ(store_.statistics().stored, PageCount());
}

TEST_F(SwapSpaceTest, PagesOfOneWordTakeASlotAndNothingElse) {
  const Page page = MakePage(Content::kSameFilled, 0x0123456789abcdef);
  const SwapSlot slot = StoreOrDie(page);
  EXPECT_EQ(Load(slot), page);
  EXPECT_EQ(store_.statistics().same_filled, kOnePage);
  EXPECT_EQ(store_.statistics().held, PageCount());
  PageCount tables;
  for (const ZoneStatistics& zone : store_.zones()) tables += zone.frames;
  EXPECT_EQ(pool_->budget().charged(), tables);
  store_.Free(slot);
  EXPECT_EQ(store_.statistics().same_filled, PageCount());
}

TEST_F(SwapSpaceTest, APageThatDiffersInItsLastByteIsNotOneWord) {
  for (const uint64_t word : {uint64_t{0}, uint64_t{0x5555555555555555}}) {
    Page page = MakePage(Content::kSameFilled, word);
    page.back() ^= std::byte{1};
    const SwapSlot slot = StoreOrDie(page);
    EXPECT_EQ(store_.statistics().same_filled, PageCount());
    EXPECT_EQ(Load(slot), page);
    store_.Free(slot);
  }
}

TEST_F(SwapSpaceTest, NoiseIsRefused) {
  EXPECT_EQ(Store(MakePage(Content::kNoise, 1)).outcome, StoreOutcome::kIncompressible);
  EXPECT_EQ(store_.statistics().stored, PageCount());
  EXPECT_EQ(pool_->budget().charged(), PageCount());
}

// From all noise to all zero, the border lies where a tenth of the page is saved, and both sides of it work.
TEST_F(SwapSpaceTest, WhatSavesATenthIsStoredAndWhatDoesNotIsRefused) {
  bool refused = false;
  bool stored = false;
  for (size_t noise = kPageSize; noise > 0; noise -= 16) {
    Page page = {};
    const Page source = MakePage(Content::kNoise, noise);
    std::memcpy(page.data(), source.data(), noise);
    const StoreResult result = Store(page);
    if (result.outcome == StoreOutcome::kIncompressible) {
      EXPECT_FALSE(stored) << noise;
      EXPECT_GT(noise, kPageSize * 8 / 10);
      refused = true;
      continue;
    }
    ASSERT_EQ(result.outcome, StoreOutcome::kStored) << noise;
    EXPECT_LT(noise, kPageSize * 9 / 10);
    stored = true;
    ASSERT_EQ(Load(result.slot), page) << noise;
    store_.Free(result.slot);
  }
  EXPECT_TRUE(refused && stored);
}

TEST_F(SwapSpaceTest, AFullPoolHasNoRoomButForPagesOfOneWord) {
  const std::vector<FrameNumber> frames = TakeAllMemory();
  EXPECT_EQ(Store(MakePage(Content::kCompressible, 1)).outcome, StoreOutcome::kNoRoom);
  const SwapSlot slot = StoreOrDie(MakePage(Content::kSameFilled, 1));
  EXPECT_EQ(store_.statistics().stored, kOnePage);
  store_.Free(slot);
  for (const FrameNumber frame : frames) pool_->arena().Free(frame, 0);
  store_.Free(StoreOrDie(MakePage(Content::kCompressible, 1)));
}

TEST_F(SwapSpaceTest, DamageIsFoundNamedAndCounted) {
  const SwapSlot sound = StoreOrDie(MakePage(Content::kCompressible, 1));
  const SwapSlot damaged = StoreOrDie(MakePage(Content::kCompressible, 2));
  store_.DamageForTesting(damaged);
  Page page;
  const absl::Status status = store_.Load(damaged, page.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("swap slot 1 in the compressed store"));
  EXPECT_EQ(store_.statistics().errors, 1u);
  EXPECT_EQ(Load(sound), MakePage(Content::kCompressible, 1));
  store_.Free(damaged);
  store_.Free(sound);
}

TEST_F(SwapSpaceTest, RandomUseMatchesANaiveMap) {
  std::mt19937 random(1);
  std::map<uint64_t, Page> stored;
  uint64_t same_filled = 0;
  for (int i = 0; i < 20'000; ++i) {
    const bool grow = random() % 100 < (i / 2'000 % 2 == 0 ? 65 : 35);
    if (grow || stored.empty()) {
      const Content content = static_cast<Content>(random() % kContents);
      const Page page = MakePage(content, 1 + random());
      const StoreResult result = Store(page);
      ASSERT_EQ(result.outcome == StoreOutcome::kZero, content == Content::kZero);
      ASSERT_EQ(result.outcome == StoreOutcome::kIncompressible, content == Content::kNoise);
      if (result.outcome != StoreOutcome::kStored) continue;
      if (content == Content::kSameFilled) ++same_filled;
      ASSERT_TRUE(stored.emplace(result.slot.value(), page).second) << "a slot was given out twice";
    } else {
      auto victim = stored.lower_bound(random() % (stored.rbegin()->first + 1));
      ASSERT_EQ(Load(SwapSlot(victim->first)), victim->second);
      if (std::memcmp(&victim->second[0], &victim->second[8], kPageSize - 8) == 0) --same_filled;
      store_.Free(SwapSlot(victim->first));
      stored.erase(victim);
    }
    ASSERT_EQ(store_.statistics().stored, PageCount(stored.size()));
    ASSERT_EQ(store_.statistics().same_filled, PageCount(same_filled));
    if (i % 1'000 == 0) {
      ASSERT_EQ(store_.Check(), absl::OkStatus());
    }
  }
  for (const auto& [slot, page] : stored) {
    ASSERT_EQ(Load(SwapSlot(slot)), page);
    store_.Free(SwapSlot(slot));
  }
  const SwapSpace::Statistics s = store_.statistics();
  EXPECT_EQ(s.stored, PageCount());
  EXPECT_EQ(s.stored_bytes, ByteCount());
  EXPECT_EQ(s.held, PageCount());
  EXPECT_EQ(s.errors, 0u);
  EXPECT_EQ(pool_->Check(), absl::OkStatus());
}

TEST_F(SwapSpaceTest, ThreadsStoreLoadAndFreeAtTheSameTime) {
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      CompressionScratch scratch;
      std::mt19937_64 random(t);
      std::vector<std::pair<SwapSlot, Page>> mine;
      for (int i = 0; i < 2'000; ++i) {
        if (mine.size() < 100 && random() % 2 == 0) {
          const Page page = MakePage(random() % 4 == 0 ? Content::kSameFilled : Content::kCompressible, random());
          const StoreResult result = store_.Store(page.data(), scratch);
          ASSERT_EQ(result.outcome, StoreOutcome::kStored);
          mine.emplace_back(result.slot, page);
        } else if (!mine.empty()) {
          ASSERT_EQ(Load(mine.back().first), mine.back().second);
          store_.Free(mine.back().first);
          mine.pop_back();
        }
      }
      for (const auto& [slot, page] : mine) store_.Free(slot);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_.statistics().stored, PageCount());
  EXPECT_EQ(store_.Check(), absl::OkStatus());
}

TEST_F(SwapSpaceTest, FreeingTwiceStopsTheProgram) {
  // The pool is not mapped in a forked child.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const SwapSlot slot = StoreOrDie(MakePage(Content::kSameFilled, 1));
  store_.Free(slot);
  EXPECT_DEATH(store_.Free(slot), "broken invariant");
}

}  // namespace
}  // namespace quire
