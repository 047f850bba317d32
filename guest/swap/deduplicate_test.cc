// Equal pages are stored once, and each has its content for as long as it wants it.
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/duplicate_hints.h"
#include "guest/swap/swap_slot.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using Page = std::array<std::byte, kPageSize>;

constexpr PageCount kPool = PageCount::OfBlocks(8);

class DeduplicateTest : public ::testing::Test {
 protected:
  void SetUp() override { MakeSpace(/*has_area=*/false); }
  void MakeSpace(bool has_area) {
    TearDown();
    std::vector<std::unique_ptr<BackingStore>> stores;
    if (has_area) {
      auto store = std::make_unique<FakeBackingStore>(ByteCount::MiB(8));
      area_ = store.get();
      stores.push_back(std::move(store));
    }
    space_ = std::make_unique<SwapSpace>(*pool_, std::move(stores));
    space_->SetDuplicateHints(DuplicateHints::Create(kPool).value());
  }
  void TearDown() override {
    if (space_ == nullptr) return;
    EXPECT_EQ(space_->statistics().stored, PageCount());
    EXPECT_EQ(space_->Check(), absl::OkStatus());
    space_.reset();
  }

  SwapSlot Store(const Page& page, Incompressible incompressible = Incompressible::kRefuse) {
    const StoreResult result = space_->Store(page.data(), scratch_, incompressible);
    EXPECT_TRUE(result.outcome == StoreOutcome::kStored || result.outcome == StoreOutcome::kStoredAsIs);
    return result.slot;
  }
  SwapSlot Store(uint64_t seed) { return Store(PageOf(seed)); }
  static Page PageOf(uint64_t seed) { return MakePage(Content::kCompressible, seed); }
  Page Load(SwapSlot slot) {
    Page page = {};
    EXPECT_EQ(space_->Load(slot, page.data()), absl::OkStatus());
    return page;
  }
  uint64_t deduplicated() { return space_->statistics().deduplicated; }

  std::unique_ptr<Pool> pool_ = Pool::Create({.limit = kPool, .reservations = {}, .use_memfd = true}).value();
  FakeBackingStore* area_ = nullptr;
  std::unique_ptr<SwapSpace> space_;
  CompressionScratch scratch_;
};

TEST_F(DeduplicateTest, EqualPagesShareASlotUntilEachIsFreed) {
  const SwapSlot slot = Store(1);
  const SwapSlot other = Store(2);
  EXPECT_NE(slot, other);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Store(1), slot);
  const SwapSpace::Statistics s = space_->statistics();
  EXPECT_EQ(s.stored, PageCount(5));
  EXPECT_EQ(s.shared, PageCount(3));
  EXPECT_EQ(s.in_pool, PageCount(2));
  EXPECT_EQ(s.deduplicated, 3u);
  EXPECT_EQ(space_->RefsOf(slot), 4u);
  EXPECT_EQ(space_->Check(), absl::OkStatus());
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(Load(slot), PageOf(1));
    space_->Free(slot);
  }
  EXPECT_FALSE(space_->IsLive(slot));
  EXPECT_EQ(Load(other), PageOf(2));
  space_->Free(other);
}

TEST_F(DeduplicateTest, NothingIsSharedWithoutHints) {
  space_.reset();
  space_ = std::make_unique<SwapSpace>(*pool_);
  const SwapSlot a = Store(1);
  const SwapSlot b = Store(1);
  EXPECT_NE(a, b);
  EXPECT_EQ(deduplicated(), 0u);
  space_->Free(a);
  space_->Free(b);
}

TEST_F(DeduplicateTest, AHintOfASlotThatWasFreedMisleadsNobody) {
  const SwapSlot slot = Store(1);
  space_->Free(slot);
  const SwapSlot again = Store(1);
  EXPECT_EQ(deduplicated(), 0u) << "nobody has it any more";
  space_->Free(again);
  // The slots are taken by others.
  std::vector<SwapSlot> others;
  for (uint64_t i = 0; i < 2'000; ++i) others.push_back(Store(100 + i));
  const SwapSlot anew = Store(1);
  EXPECT_EQ(Load(anew), PageOf(1));
  EXPECT_EQ(deduplicated(), 0u);
  for (uint64_t i = 0; i < 2'000; ++i) {
    ASSERT_EQ(Load(others[i]), PageOf(100 + i));
    space_->Free(others[i]);
  }
  space_->Free(anew);
}

TEST_F(DeduplicateTest, PagesOfTheSameHashAreComparedByteByByte) {
  space_->CollideHashesForTesting();
  std::vector<SwapSlot> slots;
  for (uint64_t i = 0; i < 20; ++i) slots.push_back(Store(i));
  EXPECT_EQ(deduplicated(), 0u);
  Page changed = PageOf(19);
  changed.back() ^= std::byte{1};
  slots.push_back(Store(changed));
  EXPECT_EQ(deduplicated(), 0u) << "by a bit";
  slots.push_back(Store(changed));
  EXPECT_EQ(deduplicated(), 1u);
  EXPECT_EQ(slots[20], slots[21]);
  for (uint64_t i = 0; i < 20; ++i) EXPECT_EQ(Load(slots[i]), PageOf(i)) << i;
  EXPECT_EQ(Load(slots[21]), changed);
  for (const SwapSlot slot : slots) space_->Free(slot);
}

TEST_F(DeduplicateTest, WhatWasCompressedOnceMoreIsShared) {
  const SwapSlot slot = Store(MakePage(Content::kCompressible, 5));
  ASSERT_EQ(space_->Recompress(PageCount(10), SwapSpace::Age::kAny).tried, kOnePage);
  EXPECT_EQ(Store(5), slot);
  EXPECT_EQ(Load(slot), PageOf(5));
  space_->Free(slot);
  EXPECT_EQ(Load(slot), PageOf(5));
  space_->Free(slot);
}

TEST_F(DeduplicateTest, APageThatDoesNotCompressIsSharedWhereItIsStoredAsItIs) {
  const Page noise = MakePage(Content::kNoise, 1);
  EXPECT_EQ(space_->Store(noise.data(), scratch_).outcome, StoreOutcome::kIncompressible);
  const SwapSlot slot = Store(noise, Incompressible::kStoreAsIs);
  const StoreResult again = space_->Store(noise.data(), scratch_, Incompressible::kRefuse);
  EXPECT_EQ(again.outcome, StoreOutcome::kStored) << "and takes no page of the pool";
  EXPECT_EQ(again.slot, slot);
  EXPECT_EQ(Load(slot), noise);
  space_->Free(slot);
  space_->Free(slot);
}

TEST_F(DeduplicateTest, ACopyThatWasKeptIsItsPagesAlone) {
  const SwapSlot kept = Store(1);
  ASSERT_TRUE(space_->Keep(kept));
  const SwapSlot slot = Store(1);
  EXPECT_NE(slot, kept);
  EXPECT_EQ(Store(1), slot) << "the newer one is found";
  EXPECT_FALSE(space_->Keep(slot)) << "it is two pages' content";
  space_->Free(kept);
  EXPECT_EQ(Load(slot), PageOf(1));
  space_->Free(slot);
  space_->Free(slot);
}

TEST_F(DeduplicateTest, WhatIsBeingWrittenOrLiesInAnAreaIsNotShared) {
  MakeSpace(/*has_area=*/true);
  const SwapSlot slot = Store(1);
  std::vector<SwapSlot> meanwhile;
  area_->on_write = [&] {
    meanwhile.push_back(Store(1));
    return absl::OkStatus();
  };
  ASSERT_GT(space_->WriteOut(ByteCount::Bytes(1)), ByteCount());
  area_->on_write = nullptr;
  ASSERT_EQ(meanwhile.size(), 1u);
  EXPECT_NE(meanwhile[0], slot);
  ASSERT_TRUE(space_->IsInArea(slot));
  EXPECT_EQ(Store(1), meanwhile[0]);
  EXPECT_EQ(deduplicated(), 1u);
  for (const SwapSlot s : {slot, meanwhile[0], meanwhile[0]}) space_->Free(s);
}

TEST_F(DeduplicateTest, SharedSlotsAreWrittenToAnAreaAndReadBack) {
  MakeSpace(/*has_area=*/true);
  const SwapSlot slot = Store(1);
  ASSERT_EQ(Store(1), slot);
  ASSERT_GT(space_->WriteOut(ByteCount::Bytes(1)), ByteCount());
  Page page;
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(space_->Load(slot, page.data(), space_->Fetch({slot}).value()), absl::OkStatus());
    EXPECT_EQ(page, PageOf(1));
    space_->Free(slot);
  }
}

TEST_F(DeduplicateTest, WhatIsDamagedIsNotShared) {
  const SwapSlot slot = Store(1);
  space_->DamageForTesting(slot);
  const SwapSlot sound = Store(1);
  EXPECT_NE(sound, slot);
  EXPECT_EQ(Load(sound), PageOf(1));
  EXPECT_EQ(space_->statistics().errors, 0u) << "its owner has not asked for it";
  space_->Free(slot);
  space_->Free(sound);
}

TEST_F(DeduplicateTest, ASlotCountsSoManyPagesAndThenThereIsAnother) {
  constexpr int kMost = UINT16_MAX;
  const SwapSlot slot = Store(1);
  for (int i = 1; i < kMost; ++i) ASSERT_EQ(Store(1), slot);
  const SwapSlot next = Store(1);
  EXPECT_NE(next, slot);
  EXPECT_EQ(Store(1), next);
  EXPECT_EQ(space_->RefsOf(slot), static_cast<uint32_t>(kMost));
  for (int i = 0; i < kMost; ++i) space_->Free(slot);
  space_->Free(next);
  EXPECT_EQ(Load(next), PageOf(1));
  space_->Free(next);
}

// Few contents, which come and go by all threads, while they are compressed once more and moved.
TEST_F(DeduplicateTest, ThreadsStoreAndFreeEqualPagesAtTheSameTime) {
  std::atomic<bool> stop = false;
  std::thread mover([&] {
    while (!stop) {
      space_->Recompress(PageCount(16), SwapSpace::Age::kAny);
      space_->CompactZone(PageCount(16));
    }
  });
  std::vector<std::thread> owners;
  for (uint64_t t = 0; t < 3; ++t) {
    owners.emplace_back([this, t] {
      CompressionScratch scratch;
      std::mt19937_64 random(t);
      std::vector<std::pair<SwapSlot, uint64_t>> mine;
      for (int i = 0; i < 3'000; ++i) {
        if (mine.size() < 50 && random() % 2 == 0) {
          const uint64_t seed = random() % 20;
          mine.emplace_back(space_->Store(PageOf(seed).data(), scratch).slot, seed);
        } else if (!mine.empty()) {
          ASSERT_EQ(Load(mine.back().first), PageOf(mine.back().second));
          space_->Free(mine.back().first);
          mine.pop_back();
        }
      }
      for (const auto& [slot, seed] : mine) space_->Free(slot);
    });
  }
  for (std::thread& thread : owners) thread.join();
  stop = true;
  mover.join();
  EXPECT_GT(deduplicated(), 100u);
  EXPECT_EQ(space_->statistics().errors, 0u);
}

// --- The hints themselves.

TEST(DuplicateHintsTest, FindWhatWasNotedLastWithTheSameHash) {
  DuplicateHints hints = DuplicateHints::Create(PageCount(64)).value();
  EXPECT_TRUE(hints.Find(0).empty());
  EXPECT_EQ(hints.metadata(), ByteCount());
  constexpr uint64_t kHash = 0x123456789abcdef0;
  hints.Note(kHash, SwapSlot(0));
  ASSERT_EQ(hints.Find(kHash).size(), 1u);
  EXPECT_EQ(hints.Find(kHash)[0], SwapSlot(0));
  hints.Note(kHash, SwapSlot(7));
  ASSERT_EQ(hints.Find(kHash).size(), 1u);
  EXPECT_EQ(hints.Find(kHash)[0], SwapSlot(7));
  EXPECT_TRUE(hints.Find(kHash + 1).empty()) << "another tag";
  EXPECT_GT(hints.metadata(), ByteCount());
}

TEST(DuplicateHintsTest, HalfOfTheHashIsKept) {
  DuplicateHints hints = DuplicateHints::Create(PageCount(1)).value();
  hints.Note(0xaaaaaaaa'00000001, SwapSlot(5));
  ASSERT_EQ(hints.Find(0xaaaaaaab'00000001).size(), 1u) << "whoever finds it looks into the slot";
}

TEST(DuplicateHintsTest, ManyAreFoundAndMemoryIsBounded) {
  constexpr uint64_t kPages = 4096;
  DuplicateHints hints = DuplicateHints::Create(PageCount(kPages)).value();
  std::mt19937_64 random(1);
  std::vector<uint64_t> hashes;
  for (uint64_t i = 0; i < kPages; ++i) {
    hashes.push_back(random());
    hints.Note(hashes.back(), SwapSlot(i));
  }
  uint64_t found = 0;
  for (uint64_t i = 0; i < kPages; ++i) {
    for (const SwapSlot slot : hints.Find(hashes[i])) found += slot == SwapSlot(i);
  }
  EXPECT_GT(found, kPages * 9 / 10);
  for (uint64_t i = 0; i < 100 * kPages; ++i) hints.Note(random(), SwapSlot(i));
  EXPECT_LE(hints.metadata(), ByteCount::Bytes(kPages * 16));
}

}  // namespace
}  // namespace quire
