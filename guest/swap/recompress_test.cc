// Pages in the pool that are compressed once more, with zstd.
#include <array>
#include <atomic>
#include <cstdint>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/arena.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/frames/reserve.h"
#include "guest/swap/swap_area.h"
#include "guest/swap/swap_slot.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/swap/testing/real_pages.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using Age = SwapSpace::Age;

constexpr ByteCount kEverything = ByteCount::MiB(1024);
constexpr PageCount kAll{1 << 20};

class RecompressTest : public ::testing::Test {
 protected:
  void SetUp() override { MakeSpace(ByteCount::MiB(16)); }
  void TearDown() override {
    for (const auto& [slot, page] : pages_) space_->Free(SwapSlot(slot));
    const SwapSpace::Statistics s = space_->statistics();
    EXPECT_EQ(s.stored, PageCount());
    EXPECT_EQ(s.stored_bytes, ByteCount());
    EXPECT_EQ(s.held, PageCount());
    EXPECT_EQ(space_->Check(), absl::OkStatus());
  }

  void MakeSpace(ByteCount area, absl::Duration cold_after = absl::ZeroDuration()) {
    space_.reset();
    std::vector<std::unique_ptr<BackingStore>> stores;
    stores.push_back(std::make_unique<FakeBackingStore>(area));
    space_ = std::make_unique<SwapSpace>(*pool_, std::move(stores), SwapArea::kAwaitFor, cold_after);
  }

  SwapSlot Put(const RealPage& page, Incompressible incompressible = Incompressible::kRefuse) {
    const StoreResult result = space_->Store(page.data(), scratch_, incompressible);
    EXPECT_THAT(result.outcome, ::testing::AnyOf(StoreOutcome::kStored, StoreOutcome::kStoredAsIs));
    pages_[result.slot.value()] = page;
    return result.slot;
  }
  // Pages of a real program, each another.
  std::vector<SwapSlot> PutMany(uint64_t count) {
    std::vector<SwapSlot> slots;
    while (slots.size() < count) {
      const RealPage page = Variant(real_[seed_ % real_.size()], seed_);
      ++seed_;
      const StoreResult result = space_->Store(page.data(), scratch_);
      if (result.outcome != StoreOutcome::kStored) continue;
      pages_[result.slot.value()] = page;
      slots.push_back(result.slot);
    }
    return slots;
  }
  void Free(SwapSlot slot) {
    space_->Free(slot);
    pages_.erase(slot.value());
  }
  absl::Status Load(SwapSlot slot, RealPage& page) {
    absl::Status status = space_->Load(slot, page.data());
    for (int tries = 0; absl::IsUnavailable(status) && tries < 100; ++tries) {
      const absl::StatusOr<FetchedPages> fetched = space_->Fetch({slot});
      if (!fetched.ok()) return fetched.status();
      status = space_->Load(slot, page.data(), *fetched);
    }
    return status;
  }
  void ExpectAll() {
    for (const auto& [slot, expected] : pages_) {
      RealPage page;
      ASSERT_EQ(Load(SwapSlot(slot), page), absl::OkStatus()) << slot;
      ASSERT_EQ(page, expected) << slot;
    }
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

  const std::vector<RealPage> real_ = RealPages();
  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(16), .reservations = {}, .use_memfd = true}).value();
  std::unique_ptr<SwapSpace> space_;
  CompressionScratch scratch_;
  std::map<uint64_t, RealPage> pages_;
  uint64_t seed_ = 0;
};

TEST_F(RecompressTest, WhatIsOldTakesLessAndComesBackByteForByte) {
  PutMany(4'000);
  const SwapSpace::Statistics before = space_->statistics();
  const SwapSpace::Recompressed done = space_->Recompress(kAll, Age::kAny);
  EXPECT_EQ(done.tried, PageCount(4'000));
  const SwapSpace::Statistics after = space_->statistics();
  EXPECT_EQ(after.recompressed, done.smaller.in_pages());
  EXPECT_EQ(after.recompression_saved, done.saved);
  EXPECT_EQ(after.stored_bytes + done.saved, before.stored_bytes);
  EXPECT_EQ(after.in_pool, before.in_pool);
  std::cout << "a page takes " << before.stored_bytes.in_bytes() / 4'000 << " bytes before and "
            << after.stored_bytes.in_bytes() / 4'000 << " after\n";
  EXPECT_LT(after.stored_bytes.in_bytes(), before.stored_bytes.in_bytes() * 85 / 100);
  space_->CompactZone(after.held);
  EXPECT_LT(space_->statistics().held.in_pages(), before.held.in_pages() * 85 / 100);
  EXPECT_EQ(space_->Check(), absl::OkStatus());
  ExpectAll();
}

TEST_F(RecompressTest, WhatIsYoungStaysAsItIs) {
  int generations = 0;
  space_->SetGenerationCallback([&] { ++generations; });
  PutMany(100);
  const int before = generations;
  EXPECT_EQ(space_->Recompress(PageCount(0)).tried, PageCount());
  PutMany(1'500);
  EXPECT_GT(generations, before + 3);
  const SwapSpace::Recompressed done = space_->Recompress(kAll);
  EXPECT_GE(done.tried, PageCount(100));
  EXPECT_LT(done.tried, PageCount(1'200)) << "a quarter at the most is of each of the last three generations";
  ExpectAll();
}

TEST_F(RecompressTest, WhatIsOldIsColdOnlyAfterAWhile) {
  constexpr absl::Duration kWhile = absl::Milliseconds(300);
  MakeSpace(ByteCount::MiB(16), kWhile);
  const absl::Time start = absl::Now();
  PutMany(1'600);
  const PageCount tried = space_->Recompress(kAll).tried;
  if (absl::Now() - start < kWhile) {
    EXPECT_EQ(tried, PageCount());
  }
  absl::SleepFor(kWhile);
  EXPECT_GT(tried + space_->Recompress(kAll).tried, PageCount(100));
  ExpectAll();
}

TEST_F(RecompressTest, EachPageIsTriedOnceAndInPortions) {
  PutMany(1'000);
  PageCount tried;
  for (int i = 0; i < 10; ++i) {
    const PageCount now = space_->Recompress(PageCount(100), Age::kAny).tried;
    EXPECT_EQ(now, PageCount(100));
    tried += now;
  }
  EXPECT_EQ(tried, PageCount(1'000));
  EXPECT_EQ(space_->Recompress(kAll, Age::kAny).tried, PageCount());
  ExpectAll();
}

TEST_F(RecompressTest, WhatGainsNothingIsTriedOnceAndStays) {
  Put(MakePage(Content::kNoise, 1), Incompressible::kStoreAsIs);
  const SwapSpace::Recompressed done = space_->Recompress(kAll, Age::kAny);
  EXPECT_EQ(done.tried, kOnePage);
  EXPECT_EQ(done.smaller, PageCount());
  EXPECT_EQ(space_->Recompress(kAll, Age::kAny).tried, PageCount());
  ExpectAll();
}

// Bytes that do not repeat, but are not all alike in number: LZ4 finds nothing, entropy coding does.
TEST_F(RecompressTest, WhatWasStoredAsItIsMayTakeLessThanAPage) {
  std::mt19937 random(1);
  RealPage page;
  for (std::byte& byte : page) byte = static_cast<std::byte>(random() % 64);
  Put(page, Incompressible::kStoreAsIs);
  ASSERT_EQ(space_->statistics().stored_bytes, kOnePage.bytes());
  EXPECT_EQ(space_->Recompress(kAll, Age::kAny).smaller, kOnePage);
  EXPECT_LT(space_->statistics().stored_bytes.in_bytes(), kPageSize * 7 / 8);
  ExpectAll();
}

TEST_F(RecompressTest, WhatWasRecompressedIsWrittenOutFetchedAndCleanedAsItIs) {
  MakeSpace(ByteCount::MiB(4));
  const std::vector<SwapSlot> slots = PutMany(1'000);
  space_->Recompress(PageCount(500), Age::kAny);
  space_->WriteOut(kEverything);
  EXPECT_EQ(space_->statistics().in_pool, PageCount());
  ExpectAll();
  EXPECT_EQ(space_->Recompress(kAll, Age::kAny).tried, PageCount()) << "what lies in an area stays as it is";
  const SwapArea& area = *space_->areas()[0];
  for (int round = 0; round < 100 && area.counters().cleaned_clusters.value() == 0; ++round) {
    std::mt19937 random(1);
    for (int i = 0; i < 300; ++i) {
      auto victim = pages_.lower_bound(random() % (pages_.rbegin()->first + 1));
      Free(SwapSlot(victim->first));
    }
    PutMany(300);
    space_->Recompress(PageCount(150), Age::kAny);
    space_->WriteOut(kEverything);
  }
  EXPECT_GT(area.counters().cleaned_clusters.value(), 0u);
  EXPECT_EQ(space_->Check(), absl::OkStatus());
  ExpectAll();
}

TEST_F(RecompressTest, WhatWasFetchedIsNotTakenForTheSameContentStoredAnew) {
  MakeSpace(ByteCount::Bytes(SwapArea::kLeastBytes));
  const RealPage page = Variant(real_[3], 1);
  std::vector<FetchedPages> fetched;
  for (int round = 0; round < 100; ++round) {
    const SwapSlot slot = Put(page);
    if (round % 2 == 1) {
      ASSERT_EQ(space_->Recompress(kAll, Age::kAny).smaller, kOnePage);
    }
    ASSERT_GT(space_->WriteOut(kEverything), ByteCount());
    for (const FetchedPages& before : fetched) {
      RealPage loaded;
      const absl::Status status = space_->Load(slot, loaded.data(), before);
      ASSERT_TRUE(status.ok() ? loaded == page : absl::IsUnavailable(status)) << status;
    }
    fetched.push_back(space_->Fetch({slot}).value());
    ExpectAll();
    Free(slot);
  }
}

TEST_F(RecompressTest, DamageIsFoundNamedAndCounted) {
  const std::vector<SwapSlot> slots = PutMany(200);
  ASSERT_EQ(space_->Recompress(kAll, Age::kAny).tried, PageCount(200));
  for (const SwapSlot slot : slots) {
    space_->DamageForTesting(slot);
    RealPage page;
    const absl::Status status = space_->Load(slot, page.data());
    ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("in the compressed store is damaged"));
  }
  EXPECT_EQ(space_->statistics().errors, 200u);
}

TEST_F(RecompressTest, WhatIsDamagedAlreadyIsLeftToItsOwner) {
  const std::vector<SwapSlot> slots = PutMany(10);
  space_->DamageForTesting(slots[5]);
  const SwapSpace::Recompressed done = space_->Recompress(kAll, Age::kAny);
  EXPECT_EQ(done.tried, PageCount(10));
  EXPECT_LE(done.smaller, PageCount(9));
  EXPECT_EQ(space_->statistics().errors, 0u);
  RealPage page;
  EXPECT_EQ(space_->Load(slots[5], page.data()).code(), absl::StatusCode::kDataLoss);
}

TEST_F(RecompressTest, WithoutRoomItStopsAndGoesOnLater) {
  PutMany(300);
  const std::vector<FrameNumber> frames = TakeAllMemory();
  const SwapSpace::Recompressed first = space_->Recompress(kAll, Age::kAny);
  EXPECT_LT(first.tried, PageCount(300));
  ExpectAll();
  for (const FrameNumber frame : frames) pool_->arena().Free(frame, 0);
  const SwapSpace::Recompressed second = space_->Recompress(kAll, Age::kAny);
  EXPECT_GE(first.tried + second.tried, PageCount(300));
  EXPECT_EQ(space_->Recompress(kAll, Age::kAny).tried, PageCount());
  ExpectAll();
}

// Everything that may happen to a page while it is compressed once more.
TEST_F(RecompressTest, PagesComeAndGoMeanwhile) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;
  others.emplace_back([&] {
    while (!stop) space_->Recompress(PageCount(64), Age::kAny);
  });
  others.emplace_back([&] {
    while (!stop) {
      space_->CompactZone(PageCount(64));
      space_->WriteOut(ByteCount::KiB(64));
    }
  });
  others.emplace_back([&] {
    Arena& arena = pool_->arena();
    while (!stop) {
      for (FrameNumber from; !stop && from < arena.ever_live().end(); ++from) {
        const FrameDescriptor owner = arena.frames().Get(from);
        if (!owner.is(FrameKind::kZone)) continue;
        const absl::StatusOr<FrameNumber> to = arena.Allocate(0, Reserve::kReclaim);
        if (!to.ok()) break;
        if (space_->Migrate(from, owner, *to) != FrameMigrator::Answer::kMoved) arena.Free(*to, 0);
      }
    }
  });
  std::vector<std::thread> owners;
  for (uint64_t t = 0; t < 2; ++t) {
    owners.emplace_back([this, t] {
      CompressionScratch scratch;
      std::mt19937_64 random(t);
      std::vector<std::pair<SwapSlot, RealPage>> mine;
      for (int i = 0; i < 3'000; ++i) {
        if (mine.size() < 300 && random() % 2 == 0) {
          const RealPage page = Variant(real_[random() % real_.size()], random());
          const StoreResult result = space_->Store(page.data(), scratch);
          if (result.outcome == StoreOutcome::kStored) mine.emplace_back(result.slot, page);
        } else if (!mine.empty()) {
          std::swap(mine[random() % mine.size()], mine.back());
          RealPage page;
          ASSERT_EQ(Load(mine.back().first, page), absl::OkStatus());
          ASSERT_EQ(page, mine.back().second);
          space_->Free(mine.back().first);
          mine.pop_back();
        }
      }
      for (const auto& [slot, page] : mine) space_->Free(slot);
    });
  }
  for (std::thread& thread : owners) thread.join();
  stop = true;
  for (std::thread& thread : others) thread.join();
  EXPECT_GT(space_->statistics().recompressed, 0u);
  EXPECT_EQ(space_->statistics().errors, 0u);
  EXPECT_EQ(space_->Check(), absl::OkStatus());
}

}  // namespace
}  // namespace quire
