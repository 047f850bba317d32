#include "guest/reclaim/reclaimer.h"

#include <algorithm>
#include <list>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/guest_limits.h"
#include "guest/memory_manager.h"
#include "guest/reclaim/block_queue.h"
#include "guest/testing/eventually.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

TEST(BlockQueueTest, MatchesAListInRandomUse) {
  std::mt19937 random(1);
  std::vector<Block> blocks(50);
  BlockQueue queue;
  std::list<Block*> model;
  for (int i = 0; i < 10'000; ++i) {
    Block& block = blocks[random() % blocks.size()];
    const auto place = std::find(model.begin(), model.end(), &block);
    if (place == model.end()) {
      queue.PushBack(block);
      model.push_back(&block);
    } else if (random() % 2 == 0) {
      queue.Remove(block);
      model.erase(place);
    } else if (random() % 20 != 0) {
      ASSERT_EQ(queue.PopFront(), model.front());
      model.pop_front();
    } else {
      const auto even = [&](const Block& b) { return (&b - blocks.data()) % 2 == 0; };
      queue.RemoveIf(even);
      model.remove_if([&](const Block* b) { return even(*b); });
    }
    ASSERT_EQ(queue.size(), model.size());
    ASSERT_EQ(queue.empty(), model.empty());
  }
  for (Block* const expected : model) ASSERT_EQ(queue.PopFront(), expected);
  EXPECT_EQ(queue.PopFront(), nullptr);
}

constexpr PageCount kLimit = PageCount::OfBlocks(32);
constexpr PageCount kGuest = PageCount::OfBlocks(40);

class ReclaimerTest : public ::testing::Test {
 protected:
  void SetUp() override { MakeManager(/*threads=*/1); }
  void TearDown() override {
    manager_->StopReclaim();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
  }

  GuestMemory* AddGuest(PageCount size = kGuest) { return manager_->AddGuest(size, Placement::kArena).value(); }
  // Faults pages in without writing them; no MMU knows of them.
  void Touch(GuestMemory* guest, GfnRange range) {
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      ASSERT_TRUE(guest->Resolve(gfn, Access::kWrite, Wait::kMay).ok()) << gfn;
    }
  }
  void TouchBlock(GuestMemory* guest, uint64_t block) { Touch(guest, PagesOf(BlockNumber(block))); }
  // Touches further pages until less than `level` is free, and returns the first that has not been touched.
  Gfn TouchUntilBelow(PageCount level, GuestMemory* guest, Gfn gfn) {
    for (; Free() >= level && gfn < Gfn(0) + guest->size(); ++gfn) Touch(guest, GfnRange(gfn, kOnePage));
    return gfn;
  }
  PageState StateOf(GuestMemory* guest, uint64_t gfn) { return guest->EntryOf(Gfn(gfn)).state(); }
  bool IsEmpty(GuestMemory* guest, uint64_t block) {
    const GfnRange pages = PagesOf(BlockNumber(block));
    for (Gfn gfn = pages.begin(); gfn < pages.end(); ++gfn) {
      if (guest->EntryOf(gfn).has_frame()) return false;
    }
    return true;
  }

  PageCount Free() { return manager_->pool().FreePages(); }
  const Watermarks& marks() { return manager_->pool().watermarks(); }
  Reclaimer& reclaimer() { return manager_->reclaimer(); }
  uint64_t evicted() { return reclaimer().counters().evicted_pages.value(); }

  void MakeManager(int threads) {
    manager_ = MemoryManager::Create({.limit = kLimit,
                                      .reservations = {},
                                      .use_memfd = true,
                                      .granularity = {.blocks = false},
                                      .reclaim_threads = threads})
                   .value();
  }

  std::unique_ptr<MemoryManager> manager_;
  EvictionScratch scratch_;
};

TEST_F(ReclaimerTest, TheDaemonWakesBelowLowAndStopsAtHigh) {
  manager_->StartReclaim();
  // Large enough for however much the daemon frees while pages are touched.
  GuestMemory* const guest = AddGuest(kGuest * 100);
  Gfn next;
  // Free memory falls by a batch of frames at a time, whenever a per-CPU list is refilled.
  for (; Free() >= marks().low + PageCount(Arena::kCpuListBatch); ++next) Touch(guest, GfnRange(next, kOnePage));
  EXPECT_EQ(reclaimer().counters().daemon_wakes.value(), 0u);
  EXPECT_EQ(evicted(), 0u);

  for (int round = 1; round <= 10; ++round) {
    const uint64_t wakes = reclaimer().counters().daemon_wakes.value();
    // While the daemon gives a block back, free memory may be read as less than it is: what counts is that it wakes.
    const auto woken = [&] { return reclaimer().counters().daemon_wakes.value() > wakes; };
    ASSERT_TRUE(Eventually([&] {
      if (!woken()) next = TouchUntilBelow(marks().low, guest, next);
      return woken();
    })) << round;
    ASSERT_TRUE(Eventually([&] { return Free() >= marks().high; })) << round;
  }
  ASSERT_LT(next, Gfn(0) + guest->size());
  manager_->StopReclaim();
  // It works by blocks: one more than was needed, and what lies in per-CPU lists.
  EXPECT_LT(Free(), marks().high + kOneBlock + kOneBlock);
  EXPECT_EQ(reclaimer().counters().direct.value(), 0u);
}

TEST_F(ReclaimerTest, TheDaemonCanBeStoppedAndStartedAgain) {
  GuestMemory* const guest = AddGuest();
  manager_->StartReclaim();
  manager_->StopReclaim();
  TouchUntilBelow(marks().low, guest, Gfn(0));
  EXPECT_LT(Free(), marks().low);
  manager_->StartReclaim();
  EXPECT_TRUE(Eventually([&] { return Free() >= marks().high; }));
}

TEST_F(ReclaimerTest, BlocksGoOutOldestFirst) {
  GuestMemory* const guest = AddGuest();
  for (uint64_t b = 0; b < 24; ++b) TouchBlock(guest, b);
  for (uint64_t b = 0; b < 5; ++b) {
    EXPECT_EQ(reclaimer().Reclaim(kOnePage, scratch_), kOneBlock);
    EXPECT_TRUE(IsEmpty(guest, b)) << b;
    EXPECT_FALSE(IsEmpty(guest, b + 1)) << b;
  }
}

TEST_F(ReclaimerTest, AnEighthOfTheBlocksWaitsForItsSecondChance) {
  GuestMemory* const guest = AddGuest();
  for (uint64_t b = 0; b < 24; ++b) TouchBlock(guest, b);
  reclaimer().Reclaim(kOnePage, scratch_);
  // Three were aged, the first of them evicted.
  EXPECT_EQ(reclaimer().counters().aged_blocks.value(), 3u);
  EXPECT_EQ(StateOf(guest, 1 * kPagesPerBlock), PageState::kOut);
  EXPECT_EQ(StateOf(guest, 2 * kPagesPerBlock), PageState::kOut);
  EXPECT_EQ(StateOf(guest, 3 * kPagesPerBlock), PageState::kResident);
}

TEST_F(ReclaimerTest, PagesTouchedWhileTheyWereOutStay) {
  GuestMemory* const guest = AddGuest();
  for (uint64_t b = 0; b < 24; ++b) TouchBlock(guest, b);
  reclaimer().Reclaim(kOnePage, scratch_);
  const Gfn touched = FirstGfn(BlockNumber(1)) + PageCount(100);
  ASSERT_EQ(guest->EntryOf(touched).state(), PageState::kOut);
  const PageCount out = guest->counts()[PageState::kOut];
  Touch(guest, GfnRange(touched, kOnePage));
  const PageCount taken_back = out - guest->counts()[PageState::kOut];  // it may have brought neighbours along
  ASSERT_GE(taken_back, kOnePage);
  EXPECT_EQ(reclaimer().Reclaim(kOnePage, scratch_), kOneBlock - taken_back);
  EXPECT_EQ(guest->EntryOf(touched).state(), PageState::kResident);
  // The block goes the whole way again, behind all others.
  for (uint64_t b = 2; b < 24; ++b) reclaimer().Reclaim(kOneBlock, scratch_);
  EXPECT_EQ(guest->frames_held(), taken_back);
  EXPECT_EQ(reclaimer().Reclaim(kOnePage, scratch_), taken_back);
}

TEST_F(ReclaimerTest, ReclaimEndsWhenThereIsNothingLeftToDo) {
  GuestMemory* const guest = AddGuest();
  const PageCount everything = kLimit * 2;
  EXPECT_EQ(reclaimer().Reclaim(everything, scratch_), PageCount());
  FakeMmu mmu(*guest);
  for (uint64_t i = 0; i < 600; ++i) FillPage(mmu.Page(Gfn(i)).value(), Content::kNoise, i);
  EXPECT_EQ(reclaimer().Reclaim(everything, scratch_), PageCount());
  EXPECT_EQ(guest->counts()[PageState::kOut], PageCount(600));
}

TEST_F(ReclaimerTest, AFaultBelowMinReclaimsForItselfOrSaysThatItWouldHaveTo) {
  GuestMemory* const guest = AddGuest();
  Gfn next;
  absl::Status refused;
  for (; refused.ok(); ++next) refused = guest->Resolve(next, Access::kWrite, Wait::kMustNot).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_LE(Free(), marks().min);
  EXPECT_EQ(reclaimer().counters().direct.value(), 0u);
  Touch(guest, GfnRange(next, kOnePage));
  EXPECT_EQ(reclaimer().counters().direct.value(), 1u);
  EXPECT_GT(evicted(), 0u);
  // The whole of a guest larger than the pool goes through.
  Touch(guest, GfnRange(Gfn(0), guest->size()));
  EXPECT_LE(manager_->pool().budget().peak(), kLimit);
}

TEST_F(ReclaimerTest, AForgottenGuestsBlocksAreNotReclaimedAnyMore) {
  GuestMemory* const forgotten = AddGuest();
  GuestMemory* const other = AddGuest();
  for (uint64_t b = 0; b < 4; ++b) {
    TouchBlock(forgotten, b);
    TouchBlock(other, b);
  }
  reclaimer().Reclaim(kOnePage, scratch_);  // some of them are on each queue now
  manager_->RemoveGuest(forgotten);
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  const PageCount left = other->frames_held();
  EXPECT_EQ(reclaimer().Reclaim(kLimit, scratch_), left);
}

TEST_F(ReclaimerTest, MemoryOfOneGuestIsTakenOutOldestFirstAndNoOtherGuests) {
  GuestMemory* const other = AddGuest();
  GuestMemory* const limited =
      manager_->AddGuest(kGuest, Placement::kArena, {.frames = PageCount::OfBlocks(8)}).value();
  for (uint64_t b = 0; b < 8; ++b) {
    TouchBlock(other, b);
    TouchBlock(limited, b);
  }
  ASSERT_EQ(limited->frames_held(), PageCount::OfBlocks(8));
  for (uint64_t b = 0; b < 5; ++b) {
    EXPECT_TRUE(reclaimer().ReclaimFrom(*limited, kOnePage));
    EXPECT_TRUE(IsEmpty(limited, b)) << b;
    EXPECT_FALSE(IsEmpty(limited, b + 1)) << b;
  }
  EXPECT_EQ(other->counts()[PageState::kResident], PageCount::OfBlocks(8));
  // Blocks of both are on the queue of all, each once.
  EXPECT_EQ(reclaimer().Reclaim(kLimit, scratch_), PageCount::OfBlocks(11));
}

TEST_F(ReclaimerTest, ReclaimFromAGuestEndsWhenNothingOfItCanBeStored) {
  GuestMemory* const other = AddGuest();
  TouchBlock(other, 0);
  GuestMemory* const limited = manager_->AddGuest(kGuest, Placement::kArena, {.frames = GuestLimits::kLeast}).value();
  FakeMmu mmu(*limited);
  for (uint64_t i = 0; i < GuestLimits::kLeast.in_pages(); ++i) {
    FillPage(mmu.Page(Gfn(i)).value(), Content::kNoise, i);
  }
  EXPECT_FALSE(reclaimer().ReclaimFrom(*limited, kOnePage));
  EXPECT_EQ(other->counts()[PageState::kResident], kOneBlock);
  // A fault that must not wait says that it would have to.
  EXPECT_EQ(limited->Resolve(Gfn(2'000), Access::kWrite, Wait::kMustNot).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_FALSE(limited->stopped());
}

TEST_F(ReclaimerTest, GuestsCanGoWhileTheirMemoryIsBeingReclaimed) {
  manager_->StartReclaim();
  GuestMemory* const stays = AddGuest();
  for (int round = 0; round < 6; ++round) {
    GuestMemory* const goes = AddGuest();
    TouchUntilBelow(marks().low, goes, Gfn(0));
    manager_->RemoveGuest(goes);
    Touch(stays, PagesOf(BlockNumber(round)));
  }
  manager_->StopReclaim();
  EXPECT_EQ(manager_->PagesIn(PageState::kResident) + manager_->PagesIn(PageState::kOut), stays->frames_held());
}

TEST_F(ReclaimerTest, OneThreadWorksAboveLowAndAllOfThemBelow) {
  MakeManager(/*threads=*/3);
  GuestMemory* const guest = AddGuest();
  const Gfn next = TouchUntilBelow(marks().high, guest, Gfn(0));
  ASSERT_GE(Free(), marks().low);
  reclaimer().Wake();
  manager_->StartReclaim();
  EXPECT_TRUE(Eventually([&] { return Free() >= marks().high; }));
  manager_->StopReclaim();
  EXPECT_EQ(reclaimer().counters().daemon_wakes.value(), 1u);

  TouchUntilBelow(marks().low, guest, next);
  reclaimer().Wake();
  manager_->StartReclaim();
  EXPECT_TRUE(Eventually([&] { return reclaimer().counters().daemon_wakes.value() == 4; }));
  EXPECT_TRUE(Eventually([&] { return Free() >= marks().high; }));
}

// Reclaimers on two threads, while the guest's memory is faulted in by a third.
TEST_F(ReclaimerTest, SeveralThreadsReclaimAtTheSameTime) {
  GuestMemory* const guest = AddGuest();
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      EvictionScratch scratch;
      while (!done) reclaimer().Reclaim(kOneBlock, scratch);
    });
  }
  for (int pass = 0; pass < 3; ++pass) Touch(guest, GfnRange(Gfn(0), guest->size()));
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(evicted(), 0u);
}

}  // namespace
}  // namespace quire
