// Stored pages in swap areas: written out, fetched, cleaned, lost.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/arena.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/frames/reserve.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using Page = std::array<std::byte, kPageSize>;

constexpr ByteCount kEverything = ByteCount::MiB(1024);

class SwapAreasTest : public ::testing::Test {
 protected:
  void SetUp() override { MakeSpace({ByteCount::MiB(16)}); }
  void TearDown() override {
    if (space_ == nullptr) return;
    for (const auto& [slot, page] : pages_) space_->Free(SwapSlot(slot));
    EXPECT_EQ(space_->statistics().stored, PageCount());
    EXPECT_EQ(space_->statistics().held, PageCount());
    EXPECT_EQ(space_->Check(), absl::OkStatus());
  }

  void MakeSpace(const std::vector<ByteCount>& sizes) {
    space_.reset();
    stores_.clear();
    std::vector<std::unique_ptr<BackingStore>> stores;
    for (const ByteCount size : sizes) {
      auto store = std::make_unique<FakeBackingStore>(size);
      stores_.push_back(store.get());
      stores.push_back(std::move(store));
    }
    space_ = std::make_unique<SwapSpace>(*pool_, std::move(stores));
  }

  SwapSlot Put(uint64_t seed) {
    const Page page = MakePage(Content::kCompressible, seed);
    const StoreResult result = space_->Store(page.data(), scratch_);
    EXPECT_EQ(result.outcome, StoreOutcome::kStored);
    pages_[result.slot.value()] = page;
    return result.slot;
  }
  std::vector<SwapSlot> PutMany(uint64_t count) {
    std::vector<SwapSlot> slots;
    for (uint64_t i = 0; i < count; ++i) slots.push_back(Put(++seed_));
    return slots;
  }
  void Free(SwapSlot slot) {
    space_->Free(slot);
    pages_.erase(slot.value());
  }
  // Loads it, and fetches it first if need be.
  absl::Status Load(SwapSlot slot, Page& page) {
    absl::Status status = space_->Load(slot, page.data());
    if (!absl::IsUnavailable(status)) return status;
    EXPECT_TRUE(space_->NeedsFetch(slot, {}));
    for (int tries = 0; absl::IsUnavailable(status) && tries < 100; ++tries) {
      const absl::StatusOr<FetchedPages> fetched = space_->Fetch({slot});
      if (!fetched.ok()) return fetched.status();
      status = space_->Load(slot, page.data(), *fetched);
    }
    return status;
  }
  void ExpectAll() {
    for (const auto& [slot, expected] : pages_) {
      Page page;
      ASSERT_EQ(Load(SwapSlot(slot), page), absl::OkStatus());
      ASSERT_EQ(page, expected);
    }
  }
  // Replaces each frame of the store that it can.
  void MoveFrames() {
    Arena& arena = pool_->arena();
    for (FrameNumber from; from < arena.ever_live().end(); ++from) {
      const FrameDescriptor owner = arena.frames().Get(from);
      if (!owner.is(FrameKind::kZone)) continue;
      const absl::StatusOr<FrameNumber> to = arena.Allocate(0, Reserve::kReclaim);
      if (!to.ok()) return;
      if (space_->Migrate(from, owner, *to) != FrameMigrator::Answer::kMoved) arena.Free(*to, 0);
    }
  }
  SwapArea& area(size_t i = 0) { return *space_->areas()[i]; }
  uint64_t PagesIn(size_t i) { return area(i).counters().pages.value(); }

  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(8), .reservations = {}, .use_memfd = true}).value();
  std::vector<FakeBackingStore*> stores_;
  std::unique_ptr<SwapSpace> space_;
  CompressionScratch scratch_;
  std::map<uint64_t, Page> pages_;
  uint64_t seed_ = 0;
};

TEST_F(SwapAreasTest, CopiesAreKeptWhileHalfOfTheAreaIsFreeAndGoWhenItsRoomIsWanted) {
  MakeSpace({ByteCount::MiB(2)});
  const std::vector<SwapSlot> slots = PutMany(200);
  ASSERT_GT(space_->WriteOut(kEverything), ByteCount());
  ASSERT_EQ(PagesIn(0), 200u);
  for (const SwapSlot slot : slots) ASSERT_TRUE(space_->Keep(slot));
  EXPECT_EQ(space_->Check(), absl::OkStatus());

  uint64_t in_area = 0;
  while (in_area + 1 < PagesIn(0)) {
    in_area = PagesIn(0);
    PutMany(100);
    space_->WriteOut(kEverything);
  }
  EXPECT_EQ(space_->statistics().kept, PageCount()) << "the area is full";
  EXPECT_EQ(space_->Check(), absl::OkStatus());
  for (const SwapSlot slot : slots) Free(slot);
  ASSERT_FALSE(pages_.empty());
  const auto full = std::find_if(pages_.begin(), pages_.end(),
                                 [&](const auto& page) { return space_->IsInArea(SwapSlot(page.first)); });
  ASSERT_NE(full, pages_.end());
  EXPECT_FALSE(space_->Keep(SwapSlot(full->first)));
  ExpectAll();
}

TEST_F(SwapAreasTest, ACopyInAnAreaThatIsOutOfReachIsNotUsed) {
  const SwapSlot kept = Put(1);
  const SwapSlot later = Put(2);
  ASSERT_GT(space_->WriteOut(kEverything), ByteCount());
  const Page page = pages_[kept.value()];
  ASSERT_TRUE(space_->Keep(kept));
  ASSERT_TRUE(space_->Holds(kept, page.data()));
  stores_[0]->on_write = [] { return absl::UnavailableError("away"); };
  PutMany(10);
  EXPECT_EQ(space_->WriteOut(kEverything), ByteCount());
  EXPECT_FALSE(space_->Holds(kept, page.data()));
  EXPECT_FALSE(space_->Revive(kept));
  EXPECT_FALSE(space_->Keep(later));
  Free(kept);
}

// Cleaning moves what lives, and drops what is a copy.
TEST_F(SwapAreasTest, CopiesStayCorrectOrGoWhileTheAreaIsCleaned) {
  MakeSpace({ByteCount::MiB(2)});
  std::mt19937 random(1);
  std::map<uint64_t, Page> kept;
  for (int round = 0; round < 60; ++round) {
    for (const SwapSlot slot : PutMany(60)) {
      if (random() % 3 != 0) continue;
      const Page page = pages_[slot.value()];
      if (space_->Keep(slot)) {
        kept[slot.value()] = page;
        pages_.erase(slot.value());
      }
    }
    space_->WriteOut(kEverything);
    for (auto page = pages_.begin(); page != pages_.end();) {
      if (random() % 3 == 0 && space_->Keep(SwapSlot(page->first))) {
        kept.insert(pages_.extract(page++));
      } else if (random() % 4 == 0) {
        space_->Free(SwapSlot(page->first));
        page = pages_.erase(page);
      } else {
        ++page;
      }
    }
    for (auto page = kept.begin(); page != kept.end();) {
      const SwapSlot slot(page->first);
      if (space_->Holds(slot, page->second.data()) && space_->Revive(slot)) {
        pages_.insert(kept.extract(page++));
      } else if (random() % 4 == 0) {
        space_->Free(slot);
        page = kept.erase(page);
      } else {
        ++page;
      }
    }
    ASSERT_EQ(space_->Check(), absl::OkStatus());
  }
  EXPECT_GT(area().counters().cleaned_clusters.value(), 0u);
  ExpectAll();
  for (const auto& [slot, page] : kept) space_->Free(SwapSlot(slot));
}

TEST_F(SwapAreasTest, WhatIsWrittenOutFreesThePoolAndComesBack) {
  const std::vector<SwapSlot> slots = PutMany(1000);
  const SwapSlot same = space_->Store(MakePage(Content::kSameFilled, 7).data(), scratch_).slot;
  EXPECT_GT(space_->WriteOut(kEverything), ByteCount());
  EXPECT_EQ(space_->statistics().held, PageCount());
  EXPECT_EQ(PagesIn(0), 1000u);
  Page page;
  EXPECT_TRUE(absl::IsUnavailable(space_->Load(slots[3], page.data())));
  EXPECT_EQ(space_->Load(same, page.data()), absl::OkStatus()) << "a page of one word is never written";
  space_->Free(same);
  ExpectAll();
  EXPECT_EQ(space_->Check(), absl::OkStatus());
}

TEST_F(SwapAreasTest, TheOldestGoFirst) {
  const std::vector<SwapSlot> old = PutMany(800);
  PutMany(800);  // generations pass
  EXPECT_LE(space_->WriteOut(ByteCount::KiB(1)), ByteCount::MiB(1));
  ASSERT_GT(PagesIn(0), 100u);
  Page page;
  uint64_t old_written = 0;
  for (const SwapSlot slot : old) old_written += absl::IsUnavailable(space_->Load(slot, page.data()));
  EXPECT_EQ(old_written, PagesIn(0));
}

TEST_F(SwapAreasTest, NeighboursAreFetchedByOneTransfer) {
  space_->BeginBlock(scratch_);
  const std::vector<SwapSlot> slots = PutMany(512);
  space_->WriteOut(kEverything);
  const absl::StatusOr<FetchedPages> fetched = space_->Fetch(slots);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->size(), 512u);
  EXPECT_EQ(stores_[0]->reads, 1u);
  EXPECT_EQ(stores_[0]->transfers_read, 1u);
  for (const SwapSlot slot : slots) {
    Page page;
    ASSERT_EQ(space_->Load(slot, page.data(), *fetched), absl::OkStatus());
    ASSERT_EQ(page, pages_[slot.value()]);
  }
}

TEST_F(SwapAreasTest, PagesThatDoNotCompressAreWrittenAtOnceAndAsTheyAre) {
  std::vector<Page> noise;
  std::vector<StoreResult> results(16);
  for (uint64_t i = 0; i < 16; ++i) noise.push_back(MakePage(Content::kNoise, i));
  std::vector<SwapSpace::Refused> refused;
  for (size_t i = 0; i < 16; ++i) {
    results[i] = space_->Store(noise[i].data(), scratch_);
    ASSERT_EQ(results[i].outcome, StoreOutcome::kIncompressible);
    refused.push_back({noise[i].data(), &results[i]});
  }
  space_->WriteThrough(refused, scratch_);
  EXPECT_EQ(stores_[0]->writes, 1u);
  for (size_t i = 0; i < 16; ++i) {
    ASSERT_EQ(results[i].outcome, StoreOutcome::kStored);
    pages_[results[i].slot.value()] = noise[i];
  }
  EXPECT_EQ(space_->statistics().held, PageCount());
  ExpectAll();
}

TEST_F(SwapAreasTest, WithoutSlotsNothingIsStoredOrWrittenAndNothingIsLost) {
  std::vector<FrameNumber> frames;
  for (;;) {
    const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
    if (!frame.ok()) break;
    frames.push_back(*frame);
  }
  std::vector<SwapSlot> slots;
  for (uint64_t word = 1;; ++word) {
    const StoreResult result = space_->Store(MakePage(Content::kSameFilled, word).data(), scratch_);
    if (result.outcome != StoreOutcome::kStored) break;
    slots.push_back(result.slot);
  }
  EXPECT_GT(slots.size(), 90'000u) << "a block of memory is full of them";
  for (const FrameNumber frame : frames) {
    if (frame.value() % 2 == 0) pool_->FreeFrame(frame);  // of no use to a table
  }
  EXPECT_EQ(space_->Store(MakePage(Content::kCompressible, 1).data(), scratch_).outcome, StoreOutcome::kNoRoom);
  EXPECT_EQ(space_->statistics().held, PageCount()) << "its bytes have been given up again";
  const Page noise = MakePage(Content::kNoise, 1);
  StoreResult result = {.outcome = StoreOutcome::kIncompressible, .slot = {}};
  const SwapSpace::Refused refused = {noise.data(), &result};
  space_->WriteThrough({&refused, 1}, scratch_);
  EXPECT_EQ(result.outcome, StoreOutcome::kNoRoom);
  EXPECT_EQ(stores_[0]->writes, 0u);
  EXPECT_EQ(space_->Check(), absl::OkStatus());
  // One slot that falls free serves all.
  space_->Free(slots.back());
  slots.pop_back();
  space_->WriteThrough({&refused, 1}, scratch_);
  ASSERT_EQ(result.outcome, StoreOutcome::kStored);
  pages_[result.slot.value()] = noise;
  ExpectAll();
  for (const SwapSlot slot : slots) space_->Free(slot);
  for (const FrameNumber frame : frames) {
    if (frame.value() % 2 != 0) pool_->FreeFrame(frame);
  }
}

TEST_F(SwapAreasTest, ASlotThatIsFreedWhileItIsWrittenIsGone) {
  const std::vector<SwapSlot> slots = PutMany(50);
  stores_[0]->on_write = [&, first = true]() mutable {
    for (size_t i = 0; first && i < 50; i += 2) Free(slots[i]);
    first = false;
    return absl::OkStatus();
  };
  space_->WriteOut(kEverything);
  stores_[0]->on_write = nullptr;
  EXPECT_EQ(space_->statistics().stored, PageCount(25));
  EXPECT_EQ(PagesIn(0), 25u);
  EXPECT_EQ(space_->Check(), absl::OkStatus());
  PutMany(50);  // takes their slots again
  ExpectAll();
}

TEST_F(SwapAreasTest, StoredBytesMayBeMovedTogetherWhileSomeAreWritten) {
  std::vector<SwapSlot> slots = PutMany(2'000);
  for (size_t i = 0; i < slots.size(); i += 2) Free(slots[i]);
  PageCount freed;
  stores_[0]->on_write = [&] {
    freed += space_->CompactZone(PageCount(100));
    return absl::OkStatus();
  };
  space_->WriteOut(ByteCount::KiB(64));
  stores_[0]->on_write = nullptr;
  EXPECT_GT(freed, PageCount());
  EXPECT_GT(PagesIn(0), 0u);
  ExpectAll();
  EXPECT_EQ(space_->Check(), absl::OkStatus());
}

TEST_F(SwapAreasTest, ASlotCanBeLoadedWhileItIsWritten) {
  const SwapSlot slot = Put(1);
  Page page;
  stores_[0]->on_write = [&] { return space_->Load(slot, page.data()); };
  space_->WriteOut(kEverything);
  stores_[0]->on_write = nullptr;
  EXPECT_EQ(page, pages_[slot.value()]);
}

TEST_F(SwapAreasTest, AWriteErrorLeavesThePagesInThePoolAndTheNextAreaTakesOver) {
  MakeSpace({ByteCount::MiB(4), ByteCount::MiB(16)});
  PutMany(500);
  stores_[0]->on_write = [] { return absl::DataLossError("a disk error"); };
  EXPECT_GT(space_->WriteOut(kEverything), ByteCount());
  EXPECT_TRUE(area(0).failed());
  EXPECT_EQ(area(0).counters().errors.value(), 1u);
  EXPECT_EQ(PagesIn(0), 0u);
  EXPECT_EQ(PagesIn(1), 500u);
  ExpectAll();
}

TEST_F(SwapAreasTest, WithNoAreaLeftPagesStayInThePool) {
  PutMany(500);
  stores_[0]->on_write = [] { return absl::DataLossError("a disk error"); };
  EXPECT_EQ(space_->WriteOut(kEverything), ByteCount());
  EXPECT_EQ(space_->statistics().in_pool, PageCount(500));
  ExpectAll();
}

TEST_F(SwapAreasTest, AFullStoreIsTriedAgainWhenSomethingWasGivenBack) {
  const std::vector<SwapSlot> slots = PutMany(1000);
  space_->WriteOut(kEverything);
  PutMany(500);
  stores_[0]->on_write = [] { return absl::ResourceExhaustedError("no room on the disk"); };
  EXPECT_EQ(space_->WriteOut(kEverything), ByteCount());
  EXPECT_FALSE(area().failed());
  EXPECT_EQ(area().counters().refused_full.value(), 1u);
  stores_[0]->on_write = nullptr;
  EXPECT_EQ(space_->WriteOut(kEverything), ByteCount()) << "nothing has changed";
  for (const SwapSlot slot : slots) Free(slot);
  EXPECT_GT(space_->WriteOut(kEverything), ByteCount());
  ExpectAll();
}

TEST_F(SwapAreasTest, AStoreThatIsAwayIsTriedAgainLater) {
  PutMany(100);
  bool away = true;
  stores_[0]->on_write = [&] { return away ? absl::UnavailableError("away") : absl::OkStatus(); };
  EXPECT_EQ(space_->WriteOut(kEverything), ByteCount());
  EXPECT_EQ(area().counters().refused_away.value(), 1u);
  away = false;
  while (!area().MayWrite()) std::this_thread::yield();
  EXPECT_GT(space_->WriteOut(kEverything), ByteCount());
  ExpectAll();
}

TEST_F(SwapAreasTest, DamageInAnAreaIsFoundAndNamed) {
  const SwapSlot slot = Put(1);
  space_->WriteOut(kEverything);
  for (size_t i = 0; i < 300; ++i) stores_[0]->FlipByte(i);
  Page page;
  const absl::Status status = Load(slot, page);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("swap slot 0 in the fake store is damaged"));
  EXPECT_EQ(area().counters().errors.value(), 1u);
}

// The slot is freed and taken again while it is fetched, and the new page written to where the old one was.
TEST_F(SwapAreasTest, WhatWasFetchedOfASlotsOldPageIsNotTakenForItsNewOne) {
  MakeSpace({ByteCount::Bytes(SwapArea::kLeastBytes)});
  SwapSlot slot = Put(1);
  space_->WriteOut(kEverything);
  const absl::StatusOr<FetchedPages> old = space_->Fetch({slot});
  ASSERT_TRUE(old.ok());
  for (uint64_t seed = 2; seed < 200; ++seed) {
    Free(slot);
    slot = Put(seed);
    space_->WriteOut(kEverything);
    Page page;
    ASSERT_TRUE(absl::IsUnavailable(space_->Load(slot, page.data(), *old))) << seed;
  }
}

TEST_F(SwapAreasTest, PagesOfAnUnreadableClusterDoNotKeepOthersFromBeingCleaned) {
  MakeSpace({ByteCount::MiB(3)});
  std::vector<SwapSlot> slots = PutMany(2000);
  while (space_->WriteOut(kEverything) > ByteCount()) {
  }
  // Nine pages in ten go, so that every cluster has some left.
  for (size_t i = 0; i < slots.size(); ++i) {
    if (i % 10 != 0) Free(slots[i]);
  }
  const size_t bad = 10 * SwapArea::kClusterBytes;
  stores_[0]->on_read = [&](absl::Span<const BackingStore::Transfer> transfers) {
    for (const BackingStore::Transfer& t : transfers) {
      if (t.offset.in_bytes() <= bad && bad < t.offset.in_bytes() + t.bytes.size()) return absl::DataLossError("bad");
    }
    return absl::OkStatus();
  };
  PutMany(1500);
  for (int i = 0; i < 100 && area().counters().cleaned_clusters.value() < 40; ++i) space_->WriteOut(kEverything);
  EXPECT_GE(area().counters().cleaned_clusters.value(), 40u);
  stores_[0]->on_read = nullptr;
  ExpectAll();
}

TEST_F(SwapAreasTest, AReadErrorIsTheStoresOwn) {
  const SwapSlot slot = Put(1);
  space_->WriteOut(kEverything);
  stores_[0]->on_read = [](absl::Span<const BackingStore::Transfer>) { return absl::DataLossError("unreadable"); };
  Page page;
  EXPECT_EQ(Load(slot, page).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(area().counters().errors.value(), 1u);
}

TEST_F(SwapAreasTest, WhatMovedWhileItWasFetchedIsNotTakenForWhatWasThere) {
  const std::vector<SwapSlot> slots = PutMany(50);
  space_->WriteOut(kEverything);
  stores_[0]->on_read = [&](absl::Span<const BackingStore::Transfer> transfers) {
    Free(slots[7]);
    for (const BackingStore::Transfer& t : transfers) std::memset(t.bytes.data(), 0x55, 100);
    return absl::OkStatus();
  };
  const absl::StatusOr<FetchedPages> fetched = space_->Fetch(slots);
  stores_[0]->on_read = nullptr;
  ASSERT_TRUE(fetched.ok());
  EXPECT_EQ(fetched->size(), 49u);
}

// The area is small, and most of what it holds is dropped again in no order: it has to be cleaned.
TEST_F(SwapAreasTest, RandomUseOfASmallAreaMatchesANaiveMap) {
  MakeSpace({ByteCount::MiB(3)});
  std::mt19937 random(1);
  for (int i = 0; i < 30'000; ++i) {
    const bool grow = pages_.size() < 1500 && random() % 100 < (i / 3'000 % 2 == 0 ? 70 : 35);
    if (grow || pages_.empty()) {
      Put(++seed_);
    } else {
      const auto victim = pages_.lower_bound(random() % (pages_.rbegin()->first + 1));
      Page page;
      ASSERT_EQ(Load(SwapSlot(victim->first), page), absl::OkStatus());
      ASSERT_EQ(page, victim->second);
      Free(SwapSlot(victim->first));
    }
    if (i % 100 == 0) space_->WriteOut(ByteCount::KiB(64));
    if (i % 1000 == 0) {
      ASSERT_EQ(space_->Check(), absl::OkStatus());
    }
  }
  EXPECT_GT(area().counters().cleaned_clusters.value(), 0u);
  EXPECT_GT(stores_[0]->discarded, 0u);
  ExpectAll();
}

TEST_F(SwapAreasTest, AFullAreaIsNoErrorAndNothingIsLost) {
  MakeSpace({ByteCount::MiB(2)});
  PutMany(3000);
  const ByteCount written = space_->WriteOut(kEverything);
  EXPECT_GT(written, ByteCount::KiB(1500));
  EXPECT_LE(written, ByteCount::MiB(2));
  EXPECT_EQ(space_->WriteOut(kEverything), ByteCount());
  ExpectAll();
}

TEST_F(SwapAreasTest, ThreadsStoreLoadAndFreeWhileOthersWriteOutAndMoveObjectsAndFrames) {
  MakeSpace({ByteCount::MiB(3), ByteCount::MiB(3)});
  std::atomic<bool> done = false;
  std::vector<std::thread> writers, threads;
  for (int t = 0; t < 2; ++t) {
    writers.emplace_back([&] {
      while (!done) space_->WriteOut(ByteCount::KiB(64));
    });
  }
  for (int t = 0; t < 2; ++t) {
    writers.emplace_back([&] {
      while (!done) space_->CompactZone(PageCount(10));
    });
  }
  writers.emplace_back([&] {
    while (!done) MoveFrames();
  });
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      CompressionScratch scratch;
      std::mt19937_64 random(t);
      std::vector<std::pair<SwapSlot, Page>> mine;
      for (int i = 0; i < 3'000; ++i) {
        if (mine.size() < 300 && random() % 2 == 0) {
          const Page page = MakePage(random() % 8 == 0 ? Content::kSameFilled : Content::kCompressible, random());
          const StoreResult result = space_->Store(page.data(), scratch);
          ASSERT_EQ(result.outcome, StoreOutcome::kStored);
          mine.emplace_back(result.slot, page);
        } else if (!mine.empty()) {
          std::swap(mine[random() % mine.size()], mine.back());
          Page page;
          ASSERT_EQ(Load(mine.back().first, page), absl::OkStatus());
          ASSERT_EQ(page, mine.back().second);
          space_->Free(mine.back().first);
          mine.pop_back();
        }
      }
      for (const auto& [slot, page] : mine) space_->Free(slot);
    });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(space_->Check(), absl::OkStatus());
}

}  // namespace
}  // namespace quire
