// Frames whose memory fails: who is told, who is not, and that they are never used again.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/guest_limits.h"
#include "guest/guest_memory.h"
#include "guest/huge/granularity.h"
#include "guest/memory_manager.h"
#include "guest/merge/merger.h"
#include "guest/merge/shared_frames.h"
#include "guest/page_entry.h"
#include "guest/swap/swap_space.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Poisoned = MemoryManager::Poisoned;

constexpr PageCount kSize = PageCount::OfBlocks(2);

class PoisonTest : public ::testing::TestWithParam<Placement> {
 protected:
  struct Guest {
    GuestMemory* memory = nullptr;
    std::unique_ptr<FakeMmu> mmu;
  };

  void SetUp() override { Make({.blocks = false}); }
  void TearDown() override { Remove(); }
  void Make(const GranularityOptions& granularity, const GuestLimits& limits = {}) {
    Remove();
    manager_ = MemoryManager::Create({.limit = PageCount::OfBlocks(16),
                                      .reservations = kSize * 2,
                                      .use_memfd = true,
                                      .granularity = granularity,
                                      .islands = PageCount(2000)})
                   .value();
    for (Guest& guest : guests_) {
      guest.memory = manager_->AddGuest(kSize, GetParam(), limits).value();
      guest.mmu = std::make_unique<FakeMmu>(*guest.memory);
    }
  }
  void Remove() {
    if (manager_ == nullptr) return;
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    const PageCount poisoned = manager_->pool().poisoned();
    for (Guest& guest : guests_) {
      guest.mmu.reset();
      manager_->RemoveGuest(guest.memory);
    }
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    EXPECT_EQ(manager_->pool().poisoned(), poisoned) << "it comes back with nobody";
  }

  void Write(size_t guest, uint64_t gfn, uint64_t seed, Content content = Content::kCompressible) {
    FillPage(guests_[guest].mmu->Page(Gfn(gfn)).value(), content, seed);
  }
  bool Has(size_t guest, uint64_t gfn, uint64_t seed, Content content = Content::kCompressible) {
    const absl::StatusOr<std::byte*> page = guests_[guest].mmu->Page(Gfn(gfn), Access::kRead);
    return page.ok() && HasContent(*page, content, seed);
  }
  PageEntry EntryOf(size_t guest, uint64_t gfn) { return guests_[guest].memory->EntryOf(Gfn(gfn)); }
  Poisoned PoisonPage(size_t guest, uint64_t gfn) {
    Poisoned poisoned = manager_->PoisonPage(*guests_[guest].memory, Gfn(gfn)).value();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    return poisoned;
  }
  // Whether the guest is told, and stopped, when it touches the page.
  void ExpectLost(size_t guest, uint64_t gfn) {
    EXPECT_EQ(EntryOf(guest, gfn).state(), PageState::kPoisoned);
    EXPECT_FALSE(guests_[guest].memory->stopped()) << "nobody has touched it yet";
    const absl::Status touched = guests_[guest].mmu->Page(Gfn(gfn), Access::kRead).status();
    EXPECT_TRUE(absl::IsDataLoss(touched));
    EXPECT_THAT(std::string(touched.message()), HasSubstr("is lost: the memory that held it has failed"));
    EXPECT_TRUE(guests_[guest].memory->stopped());
    EXPECT_EQ(guests_[guest].memory->status(), touched);
  }
  bool IsInArena() const { return GetParam() == Placement::kArena; }
  FrameKind KindOf(FrameNumber frame) { return manager_->pool().arena().frames().Get(frame).kind(); }

  std::unique_ptr<MemoryManager> manager_;
  Guest guests_[2];
  EvictionScratch scratch_;
};

INSTANTIATE_TEST_SUITE_P(Placements, PoisonTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& placement) {
                           return placement.param == Placement::kArena ? "Arena" : "Reservation";
                         });

TEST_P(PoisonTest, APageInUseIsLostAndItsGuestStoppedWhenItTouchesItNext) {
  Write(0, 7, 1);
  Write(0, 300, 2);
  Write(1, 7, 3);
  const FrameNumber frame = EntryOf(0, 7).frame();
  const Poisoned poisoned = PoisonPage(0, 7);
  EXPECT_EQ(poisoned.was, Poisoned::Was::kPage);
  EXPECT_EQ(poisoned.frame, frame);
  EXPECT_EQ(poisoned.lost, kOnePage);
  EXPECT_THAT(poisoned.guests, ElementsAre(0u));
  EXPECT_FALSE(guests_[0].mmu->maps(Gfn(7)));
  EXPECT_EQ(manager_->pool().poisoned(), kOnePage);
  EXPECT_TRUE(Has(0, 300, 2));
  ExpectLost(0, 7);
  EXPECT_TRUE(Has(1, 7, 3));
  EXPECT_FALSE(guests_[1].memory->stopped());
}

TEST_P(PoisonTest, AGuestThatLivesWithLossIsToldAtEachTouchAndGoesOn) {
  Write(0, 7, 1);
  Write(0, 8, 2);
  guests_[0].memory->LiveWithLoss();
  PoisonPage(0, 7);
  for (const Access access : {Access::kRead, Access::kWrite, Access::kRead}) {
    EXPECT_TRUE(absl::IsDataLoss(guests_[0].mmu->Page(Gfn(7), access).status()));
    EXPECT_EQ(EntryOf(0, 7).state(), PageState::kPoisoned) << "it never reads as anything else";
  }
  EXPECT_TRUE(absl::IsDataLoss(guests_[0].memory->Wire(GfnRange(Gfn(6), PageCount(3)))));
  EXPECT_FALSE(guests_[0].memory->stopped());
  EXPECT_TRUE(Has(0, 8, 2));
  guests_[0].memory->Discard(GfnRange(Gfn(7), kOnePage));
  EXPECT_TRUE(Has(0, 7, 0, Content::kZero));
}

TEST_P(PoisonTest, APageThatIsWiredIsLostAndNotWiredAnyMore) {
  Write(0, 7, 1);
  ASSERT_EQ(guests_[0].memory->Wire(GfnRange(Gfn(6), PageCount(3))), absl::OkStatus());
  EXPECT_EQ(PoisonPage(0, 7).lost, kOnePage);
  EXPECT_EQ(manager_->wiring().limit.charged(), PageCount(2));
  guests_[0].memory->Discard(GfnRange(Gfn(7), kOnePage));
  EXPECT_TRUE(Has(0, 7, 0, Content::kZero));
  guests_[0].memory->Unwire(GfnRange(Gfn(6), PageCount(3)));
  EXPECT_EQ(manager_->wiring().limit.charged(), PageCount());
}

TEST_P(PoisonTest, APageThatIsOutIsLostAlsoIfACopyIsKept) {
  Write(0, 7, 1);
  Block& block = guests_[0].memory->BlockAt(BlockNumber(0));
  guests_[0].memory->Age(block);
  guests_[0].memory->Evict(block, scratch_);
  EXPECT_TRUE(Has(0, 7, 1));
  ASSERT_TRUE(EntryOf(0, 7).kept().has_value());
  guests_[0].memory->Age(block);
  PoisonPage(0, 7);
  EXPECT_EQ(manager_->store().statistics().kept, PageCount()) << "it may be out of date, and is nobody's";
  ExpectLost(0, 7);
}

TEST_P(PoisonTest, AGuestThatGivesTheLostPageUpGetsAnotherFrame) {
  Write(0, 7, 1);
  const FrameNumber frame = EntryOf(0, 7).frame();
  PoisonPage(0, 7);
  guests_[0].memory->Discard(GfnRange(Gfn(7), kOnePage));
  EXPECT_TRUE(Has(0, 7, 0, Content::kZero));
  Write(0, 7, 2);
  EXPECT_TRUE(Has(0, 7, 2));
  EXPECT_FALSE(guests_[0].memory->stopped());
  // A page of a reservation is always at its place; the host has another one there.
  if (IsInArena()) {
    EXPECT_NE(EntryOf(0, 7).frame(), frame);
    EXPECT_EQ(KindOf(frame), FrameKind::kPoisoned);
  }
  EXPECT_EQ(manager_->pool().poisoned(), kOnePage);
}

TEST_P(PoisonTest, AWholeBlockIsTakenApartAndItsOtherPagesStay) {
  Make({});
  for (uint64_t gfn = 0; gfn < 512; ++gfn) Write(0, gfn, gfn);
  PoisonPage(0, 7);
  EXPECT_FALSE(guests_[0].memory->IsWhole(BlockNumber(0)));
  for (uint64_t gfn = 0; gfn < 512; ++gfn) EXPECT_TRUE(gfn == 7 || Has(0, gfn, gfn)) << gfn;
  guests_[0].memory->Discard(GfnRange(Gfn(7), kOnePage));
  Write(0, 7, 1000);
  for (uint64_t gfn = 0; gfn < 512; ++gfn) EXPECT_TRUE(gfn == 7 || Has(0, gfn, gfn)) << gfn;
}

TEST_P(PoisonTest, AGuestIsNotChargedForAFrameThatFailed) {
  Make({.blocks = false}, {.frames = GuestLimits::kLeast});
  Write(0, 7, 1);
  const PageCount held = guests_[0].memory->frames_held();
  PoisonPage(0, 7);
  EXPECT_EQ(guests_[0].memory->frames_held() + kOnePage, held);
}

TEST_P(PoisonTest, AFreeFrameIsNeverAllocatedAgain) {
  Write(0, 7, 1);
  Pool& pool = manager_->pool();
  const FrameNumber frame = pool.AllocateFrame().value();
  pool.FreeFrame(frame);
  const Poisoned poisoned = manager_->PoisonFrame(frame).value();
  EXPECT_EQ(poisoned.was, Poisoned::Was::kFree);
  EXPECT_THAT(poisoned.guests, IsEmpty());
  std::vector<FrameNumber> taken;
  for (absl::StatusOr<FrameNumber> other = pool.AllocateFrame(); other.ok(); other = pool.AllocateFrame()) {
    taken.push_back(*other);
  }
  EXPECT_EQ(std::count(taken.begin(), taken.end(), frame), 0);
  for (const FrameNumber other : taken) pool.FreeFrame(other);
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->PoisonFrame(frame).status())) << "it has failed before";
  EXPECT_TRUE(Has(0, 7, 1));
}

TEST_P(PoisonTest, WhatHoldsNothingOrCannotBeDoneWithoutIsRefused) {
  const FrameRange wired = manager_->pool().AllocateWired(kOnePage).value();
  EXPECT_TRUE(absl::IsFailedPrecondition(manager_->PoisonFrame(wired.begin()).status()));
  manager_->pool().FreeWired(wired);
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->PoisonPage(*guests_[0].memory, Gfn(3)).status())) << "absent";
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->PoisonPage(*guests_[0].memory, Gfn(0) + kSize).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(manager_->PoisonFrame(FrameNumber(1 << 27)).status()));
  EXPECT_EQ(manager_->pool().poisoned(), PageCount());
}

TEST_P(PoisonTest, PagesThatShareAFrameAreLostTogetherIfItIsTheOnlyOne) {
  for (size_t g = 0; g < 2; ++g) Write(g, 5, 9);
  Write(0, 6, 10);
  manager_->merger().Pass();
  ASSERT_EQ(EntryOf(0, 5).state(), PageState::kShared);
  const FrameNumber frame = EntryOf(0, 5).frame();
  const Poisoned poisoned = PoisonPage(0, 5);
  EXPECT_EQ(poisoned.was, Poisoned::Was::kShared);
  EXPECT_EQ(poisoned.lost, PageCount(2));
  EXPECT_THAT(poisoned.guests, ElementsAre(0u, 1u));
  EXPECT_EQ(KindOf(frame), FrameKind::kPoisoned);
  EXPECT_EQ(manager_->shared().frames(), PageCount());
  EXPECT_TRUE(Has(0, 6, 10));
  // The same content once more finds no frame with it.
  Write(1, 6, 9);
  manager_->merger().Pass();
  ExpectLost(0, 5);
  ExpectLost(1, 5);
}

TEST_P(PoisonTest, PagesThatShareAFrameGoOverToAnotherOfTheSameContent) {
  // More pages than may share one frame.
  for (size_t g = 0; g < 2; ++g) {
    for (uint64_t gfn = 0; gfn < 200; ++gfn) Write(g, gfn, 9);
  }
  for (int pass = 0; pass < 3; ++pass) manager_->merger().Pass();
  ASSERT_GE(manager_->shared().frames(), PageCount(2));
  const PageCount sharers = manager_->shared().sharers();
  const FrameNumber frame = EntryOf(0, 5).frame();
  const Poisoned poisoned = PoisonPage(0, 5);
  EXPECT_EQ(poisoned.lost, PageCount());
  EXPECT_GT(poisoned.recovered, PageCount());
  EXPECT_THAT(poisoned.guests, IsEmpty());
  EXPECT_EQ(KindOf(frame), FrameKind::kPoisoned);
  EXPECT_EQ(manager_->shared().sharers(), sharers);
  for (size_t g = 0; g < 2; ++g) {
    for (uint64_t gfn = 0; gfn < 200; ++gfn) EXPECT_TRUE(Has(g, gfn, 9)) << gfn;
  }
}

TEST_P(PoisonTest, StoredPagesInTheFrameAreLostAndOthersAreNot) {
  constexpr uint64_t kPages = 64;
  for (size_t g = 0; g < 2; ++g) {
    for (uint64_t gfn = 0; gfn < kPages; ++gfn) Write(g, gfn, 1000 * g + gfn);
    Block& block = guests_[g].memory->BlockAt(BlockNumber(0));
    guests_[g].memory->Age(block);
    guests_[g].memory->Evict(block, scratch_);
  }
  FrameTable& frames = manager_->pool().arena().frames();
  FrameNumber frame;
  while (!frames.Get(frame).is(FrameKind::kZone)) ++frame;
  const Poisoned poisoned = manager_->PoisonFrame(frame).value();
  EXPECT_EQ(poisoned.was, Poisoned::Was::kStored);
  EXPECT_EQ(KindOf(frame), FrameKind::kPoisoned);
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  // One guest or the other comes to a page that cannot be read back, and what it reads before is right.
  int stopped = 0;
  for (size_t g = 0; g < 2; ++g) {
    for (uint64_t gfn = 0; gfn < kPages && !guests_[g].memory->stopped(); ++gfn) {
      const absl::StatusOr<std::byte*> page = guests_[g].mmu->Page(Gfn(gfn), Access::kRead);
      if (page.ok()) {
        EXPECT_TRUE(HasContent(*page, Content::kCompressible, 1000 * g + gfn)) << gfn;
      } else {
        EXPECT_TRUE(absl::IsDataLoss(page.status()));
      }
    }
    stopped += guests_[g].memory->stopped() ? 1 : 0;
  }
  EXPECT_GE(stopped, 1);
}

TEST_P(PoisonTest, PagesThatWereReadBackFromTheFrameHaveTheirContent) {
  for (uint64_t gfn = 0; gfn < 64; ++gfn) Write(0, gfn, gfn);
  Block& block = guests_[0].memory->BlockAt(BlockNumber(0));
  const auto take_out = [&] {
    guests_[0].memory->Age(block);
    guests_[0].memory->Evict(block, scratch_);
  };
  take_out();
  for (uint64_t gfn = 0; gfn < 64; ++gfn) EXPECT_TRUE(Has(0, gfn, gfn));
  EXPECT_GT(manager_->store().statistics().kept, PageCount());
  FrameTable& frames = manager_->pool().arena().frames();
  std::vector<FrameNumber> stored;
  for (FrameNumber frame; frame < frames.range().end(); ++frame) {
    if (frames.Get(frame).is(FrameKind::kZone)) stored.push_back(frame);
  }
  for (const FrameNumber frame : stored) {
    EXPECT_TRUE(manager_->PoisonFrame(frame).ok());
  }
  // They go out again, and no copy of before is taken for them.
  take_out();
  for (uint64_t gfn = 0; gfn < 64; ++gfn) EXPECT_TRUE(Has(0, gfn, gfn));
}

}  // namespace
}  // namespace quire
