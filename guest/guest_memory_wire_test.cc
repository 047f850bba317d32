// Wired pages stay resident where they are, whatever else is done to the memory around them.
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/guest_limits.h"
#include "guest/guest_memory.h"
#include "guest/huge/granularity.h"
#include "guest/memory_manager.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"
#include "guest/wired_pages.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr PageCount kLimit = PageCount::OfBlocks(16);
constexpr PageCount kSize = PageCount::OfBlocks(12);

GfnRange Pages(uint64_t first, uint64_t count) { return GfnRange(Gfn(first), PageCount(count)); }

// Both ways in which a guest's pages can lie.
class WireTest : public ::testing::TestWithParam<Placement> {
 protected:
  void SetUp() override { Make(); }
  void Make(const GranularityOptions& granularity = {.blocks = false}, const GuestLimits& limits = {}) {
    TearDown();
    manager_ = MemoryManager::Create({.limit = kLimit,
                                      .reservations = kSize * 2,
                                      .granularity = granularity,
                                      .islands = PageCount(100),
                                      .out_of_memory_advice = "ask for less"})
                   .value();
    guest_ = manager_->AddGuest(kSize, GetParam(), limits).value();
    mmu_ = std::make_unique<FakeMmu>(*guest_);
  }
  void TearDown() override {
    if (manager_ == nullptr) return;
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    mmu_.reset();
    manager_->RemoveGuest(guest_);
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    EXPECT_EQ(manager_->wiring().limit.charged(), PageCount());
    EXPECT_EQ(manager_->store().statistics().stored, PageCount());
    manager_.reset();
  }

  void Write(uint64_t gfn, uint64_t seed) { FillPage(mmu_->Page(Gfn(gfn)).value(), Content::kCompressible, seed); }
  void WriteAll(GfnRange range) {
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) Write(gfn.value(), gfn.value() + 1);
  }
  void ExpectAll(GfnRange range) {
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      ASSERT_TRUE(HasContent(mmu_->Page(gfn, Access::kRead).value(), Content::kCompressible, gfn.value() + 1)) << gfn;
    }
  }
  // Ages and evicts everything that can be, several times over.
  void ReclaimAll() {
    for (int i = 0; i < 3; ++i) manager_->reclaimer().Reclaim(kLimit * 2, scratch_);
  }
  PageEntry EntryOf(uint64_t gfn) { return guest_->EntryOf(Gfn(gfn)); }
  PageState StateOf(uint64_t gfn) { return EntryOf(gfn).state(); }
  uint64_t CountPages(PageState state) { return guest_->counts()[state].in_pages(); }
  bool IsQueued(uint64_t block) {
    Block& b = guest_->BlockAt(BlockNumber(block));
    absl::MutexLock lock(&b.lock);
    return b.queued;
  }
  bool IsWhole(uint64_t block) { return guest_->IsWhole(BlockNumber(block)); }
  void ExpectOk() { EXPECT_EQ(manager_->Check(), absl::OkStatus()); }

  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<FakeMmu> mmu_;
  EvictionScratch scratch_;
};

TEST_P(WireTest, WiredPagesAreNotReclaimedHoweverOftenItIsTried) {
  WriteAll(Pages(0, 600));
  ASSERT_EQ(guest_->Wire(Pages(500, 20)), absl::OkStatus());
  EXPECT_EQ(guest_->wired(), PageCount(20));
  ReclaimAll();
  EXPECT_EQ(CountPages(PageState::kResident), 20u);
  EXPECT_EQ(CountPages(PageState::kSwapped), 580u);
  for (uint64_t gfn = 500; gfn < 520; ++gfn) {
    EXPECT_EQ(StateOf(gfn), PageState::kResident) << gfn;
    EXPECT_TRUE(mmu_->maps(Gfn(gfn))) << "not even unmapped: " << gfn;
  }
  EXPECT_GT(manager_->wiring().refused_reclaim.value(), 0u);
  ExpectOk();
  guest_->Unwire(Pages(500, 20));
  EXPECT_EQ(guest_->wired(), PageCount());
  ReclaimAll();
  EXPECT_EQ(CountPages(PageState::kResident), 0u);
  ExpectAll(Pages(0, 600));
}

TEST_P(WireTest, WiredPagesStayUnderPressureOfTheirOwnGuestAndOthers) {
  ASSERT_EQ(guest_->Wire(Pages(0, 1024)), absl::OkStatus());
  WriteAll(Pages(0, kSize.in_pages()));
  GuestMemory* const other = manager_->AddGuest(kSize, Placement::kArena).value();
  {
    FakeMmu mmu(*other);
    for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) {
      FillPage(mmu.Page(Gfn(gfn)).value(), Content::kCompressible, gfn);
    }
  }
  EXPECT_GT(CountPages(PageState::kSwapped), 0u);
  for (uint64_t gfn = 0; gfn < 1024; ++gfn) ASSERT_EQ(StateOf(gfn), PageState::kResident) << gfn;
  ExpectOk();
  manager_->RemoveGuest(other);
  ExpectAll(Pages(0, kSize.in_pages()));
}

TEST_P(WireTest, PagesInAnyStateAreBroughtIn) {
  WriteAll(Pages(0, 100));
  ReclaimAll();                                                 // swapped
  for (uint64_t gfn = 0; gfn < 20; ++gfn) Write(gfn, gfn + 1);  // resident, perhaps with a kept copy
  guest_->Age(guest_->BlockAt(BlockNumber(0)));                 // out
  for (uint64_t gfn = 0; gfn < 5; ++gfn) mmu_->Read(Gfn(gfn));
  ASSERT_EQ(guest_->Wire(Pages(0, 200)), absl::OkStatus());  // those from 100 on are absent
  for (uint64_t gfn = 0; gfn < 200; ++gfn) ASSERT_EQ(StateOf(gfn), PageState::kResident) << gfn;
  ExpectOk();
  ReclaimAll();
  ExpectAll(Pages(0, 100));
  for (uint64_t gfn = 100; gfn < 200; ++gfn) ASSERT_EQ(mmu_->Read(Gfn(gfn)), 0u);
  EXPECT_EQ(CountPages(PageState::kResident), 200u);
}

TEST_P(WireTest, CountsNest) {
  ASSERT_EQ(guest_->Wire(Pages(10, 20)), absl::OkStatus());
  ASSERT_EQ(guest_->Wire(Pages(20, 20)), absl::OkStatus());
  EXPECT_EQ(guest_->wired(), PageCount(30));
  EXPECT_EQ(manager_->wiring().limit.charged(), PageCount(30));
  guest_->Unwire(Pages(10, 20));
  EXPECT_EQ(guest_->wired(), PageCount(20));
  ReclaimAll();
  EXPECT_EQ(CountPages(PageState::kResident), 20u);
  for (uint64_t gfn = 20; gfn < 40; ++gfn) EXPECT_EQ(StateOf(gfn), PageState::kResident) << gfn;
  guest_->Unwire(Pages(20, 20));
  EXPECT_EQ(guest_->wired(), PageCount());
}

TEST_P(WireTest, APageCanBeWiredOnlySoOftenAndWhatWasBegunIsUndone) {
  for (int i = 0; i < WiredPages::kMostTimes; ++i) ASSERT_EQ(guest_->Wire(Pages(5, 1)), absl::OkStatus());
  EXPECT_EQ(guest_->Wire(Pages(0, 8)),
            absl::FailedPreconditionError("page 5 of guest-0 is wired 255 times already, which is the most: unwire it "
                                          "first"));
  EXPECT_EQ(guest_->wired(), kOnePage);
  ExpectOk();
  for (int i = 0; i < WiredPages::kMostTimes; ++i) guest_->Unwire(Pages(5, 1));
  EXPECT_EQ(guest_->wired(), PageCount());
}

TEST_P(WireTest, AllGuestsTogetherMayWireHalfOfThePool) {
  const PageCount half = kLimit / 2;
  ASSERT_EQ(guest_->Wire(GfnRange(Gfn(0), half - kOnePage)), absl::OkStatus());
  ASSERT_EQ(guest_->Wire(GfnRange(Gfn(0), half)), absl::OkStatus()) << "counts what is wired already once";
  const uint64_t faults = guest_->faults();
  const absl::Status status = guest_->Wire(GfnRange(Gfn(0), half + kOnePage));
  EXPECT_EQ(status, absl::ResourceExhaustedError(
                        "guest-0 cannot have 0.0 MiB more wired: all guests together may have 16.0 MiB, and have 16.0 "
                        "MiB; unwire some first, or ask for less"));
  EXPECT_EQ(guest_->faults(), faults) << "is refused before anything is brought in";
  EXPECT_EQ(manager_->wiring().refused_limit.value(), 1u);
  EXPECT_FALSE(guest_->stopped());
  EXPECT_EQ(guest_->wired(), half);

  GuestMemory* const other = manager_->AddGuest(kSize, Placement::kArena).value();
  EXPECT_TRUE(absl::IsResourceExhausted(other->Wire(Pages(0, 1))));
  guest_->Unwire(GfnRange(Gfn(0), half - kOnePage));
  guest_->Unwire(Pages(0, 10));
  EXPECT_EQ(other->Wire(Pages(0, 10)), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(other->Wire(Pages(5, 10))));
  EXPECT_EQ(other->wired(), PageCount(10));
  ExpectOk();
  manager_->RemoveGuest(other);
  EXPECT_EQ(manager_->wiring().limit.charged(), half - PageCount(10));
}

TEST_P(WireTest, AGuestWithALimitMayWireHalfOfIt) {
  Make({.blocks = false}, {.frames = PageCount::OfBlocks(4), .advice = "raise it"});
  EXPECT_THAT(std::string(guest_->Wire(Pages(0, 1025)).message()),
              AllOf(HasSubstr("guest-0 cannot have 4.0 MiB more wired"), HasSubstr("half of its limit"),
                    HasSubstr("or raise it")));
  ASSERT_EQ(guest_->Wire(Pages(0, 1024)), absl::OkStatus());
  WriteAll(Pages(0, 5 * 512));
  EXPECT_GT(CountPages(PageState::kSwapped), 0u);
  for (uint64_t gfn = 0; gfn < 1024; ++gfn) ASSERT_EQ(StateOf(gfn), PageState::kResident) << gfn;
  ExpectAll(Pages(0, 5 * 512));
}

TEST_P(WireTest, PagesThatTheGuestDoesNotHaveAreRefused) {
  const uint64_t size = kSize.in_pages();
  EXPECT_EQ(guest_->Wire(Pages(size - 1, 2)),
            absl::OutOfRangeError("guest-0 has no pages 6143 to 6144 to be wired: its memory ends at page 6144"));
  EXPECT_TRUE(absl::IsOutOfRange(guest_->Wire(GfnRange(Gfn(size + 5), Gfn(~uint64_t{0})))));
  EXPECT_EQ(guest_->Wire(GfnRange()), absl::OkStatus());
  EXPECT_EQ(guest_->wired(), PageCount());
}

TEST_P(WireTest, DiscardedPagesReadAsZeroAndStayWired) {
  WriteAll(Pages(0, 64));
  ASSERT_EQ(guest_->Wire(Pages(10, 20)), absl::OkStatus());
  const FrameNumber frame = EntryOf(15).frame();
  guest_->Discard(Pages(0, 64));
  EXPECT_EQ(CountPages(PageState::kResident), 20u);
  EXPECT_FALSE(mmu_->maps(Gfn(15)));
  EXPECT_EQ(EntryOf(15).frame(), frame);
  for (uint64_t gfn = 0; gfn < 64; ++gfn) ASSERT_TRUE(HasContent(mmu_->Page(Gfn(gfn)).value(), Content::kZero, 0));
  ExpectOk();
}

TEST_P(WireTest, AStoppedGuestHasNothingWired) {
  ASSERT_EQ(guest_->Wire(Pages(0, 100)), absl::OkStatus());
  guest_->Stop(absl::CancelledError("enough"));
  EXPECT_EQ(guest_->Wire(Pages(50, 100)), absl::CancelledError("enough"));
  EXPECT_EQ(guest_->wired(), PageCount(100)) << "until its memory is given up";
  guest_->Discard(GfnRange(Gfn(0), kSize));
  EXPECT_EQ(guest_->wired(), PageCount());
  EXPECT_EQ(guest_->frames_held(), PageCount());
  guest_->Unwire(Pages(0, 100));  // whoever wired them may come late
  ExpectOk();
}

// A transfer may be under way that nobody can call back: the frames must not be another guest's before it has ended.
TEST_P(WireTest, WhatADeviceHasWiredOfAStoppedGuestStaysUntilItIsUnwired) {
  WriteAll(Pages(0, 100));
  ASSERT_EQ(guest_->Wire(Pages(0, 100)), absl::OkStatus());
  ASSERT_EQ(guest_->Wire(Pages(10, 20), WiredBy::kDevice), absl::OkStatus());
  ASSERT_EQ(guest_->Wire(Pages(20, 20), WiredBy::kDevice), absl::OkStatus());
  const FrameRanges frames = guest_->WiredFrames(Pages(10, 30)).value();
  guest_->Stop(absl::CancelledError("enough"));
  guest_->Discard(GfnRange(Gfn(0), kSize));
  EXPECT_EQ(guest_->wired(), PageCount(30));
  EXPECT_EQ(guest_->frames_held(), PageCount(30));
  EXPECT_EQ(guest_->WiredFrames(Pages(10, 30)).value(), frames);
  ExpectOk();
  guest_->Unwire(Pages(10, 20), WiredBy::kDevice);
  EXPECT_EQ(guest_->frames_held(), PageCount(20)) << "half of the first range is wired by the second, too";
  guest_->Unwire(Pages(20, 20), WiredBy::kDevice);
  EXPECT_EQ(guest_->frames_held(), PageCount());
  EXPECT_EQ(guest_->wired(), PageCount());
  ExpectOk();
}

TEST_P(WireTest, WiredFramesAreThoseThatThePagesHave) {
  WriteAll(Pages(0, 40));
  ASSERT_EQ(guest_->Wire(Pages(3, 20), WiredBy::kDevice), absl::OkStatus());
  const FrameRanges frames = guest_->WiredFrames(Pages(3, 20)).value();
  Gfn gfn(3);
  for (const FrameRange& range : frames) {
    for (FrameNumber frame = range.begin(); frame < range.end(); ++frame, ++gfn) {
      EXPECT_EQ(EntryOf(gfn.value()).frame(), frame) << gfn;
    }
  }
  EXPECT_EQ(gfn, Gfn(23));
  guest_->Unwire(Pages(3, 20), WiredBy::kDevice);
}

TEST_P(WireTest, ABlockWithNothingButWiredFramesIsOffTheQueue) {
  ASSERT_EQ(guest_->Wire(Pages(512, 100)), absl::OkStatus());
  EXPECT_TRUE(IsQueued(1));
  ReclaimAll();
  EXPECT_FALSE(IsQueued(1));
  ExpectOk();
  Write(700, 1);
  EXPECT_TRUE(IsQueued(1)) << "a page that is not wired has come";
  ReclaimAll();
  EXPECT_FALSE(IsQueued(1));
  guest_->Unwire(Pages(512, 50));
  EXPECT_TRUE(IsQueued(1));
  ReclaimAll();
  EXPECT_EQ(CountPages(PageState::kResident), 50u);
  EXPECT_FALSE(IsQueued(1));
}

TEST_P(WireTest, AWiredPageIsNotMerged) {
  for (uint64_t gfn : {3, 100, 200, 300}) Write(gfn, 7);
  mmu_->Write(Gfn(400), 0);
  ASSERT_EQ(guest_->Wire(Pages(100, 1)), absl::OkStatus());
  ASSERT_EQ(guest_->Wire(Pages(400, 1)), absl::OkStatus());
  for (int pass = 0; pass < 3; ++pass) manager_->merger().Pass();
  for (uint64_t gfn : {3, 200, 300}) EXPECT_EQ(StateOf(gfn), PageState::kShared) << gfn;
  EXPECT_EQ(StateOf(100), PageState::kResident);
  EXPECT_EQ(StateOf(400), PageState::kResident) << "zero, and wanted where it is";
  EXPECT_GE(manager_->merger().counters().Refused(MergeRefusal::kWired), 2u);
  ExpectOk();
  guest_->Unwire(Pages(100, 1));
  for (int pass = 0; pass < 20; ++pass) manager_->merger().Pass();
  EXPECT_EQ(StateOf(100), PageState::kShared);
}

TEST_P(WireTest, ASharedPageGetsItsOwnFrameFirst) {
  for (uint64_t gfn : {3, 100, 200}) Write(gfn, 7);
  for (int pass = 0; pass < 2; ++pass) manager_->merger().Pass();
  ASSERT_EQ(StateOf(100), PageState::kShared);
  mmu_->Read(Gfn(100));
  ASSERT_EQ(guest_->Wire(Pages(100, 1)), absl::OkStatus());
  EXPECT_EQ(StateOf(100), PageState::kResident);
  EXPECT_FALSE(mmu_->maps(Gfn(100))) << "it was mapped by the shared frame";
  if (GetParam() == Placement::kReservation) {
    EXPECT_EQ(EntryOf(100).frame(), guest_->reservation().begin() + PageCount(100)) << "at home";
  }
  EXPECT_EQ(StateOf(3), PageState::kShared);
  Write(100, 8);
  EXPECT_TRUE(HasContent(mmu_->Page(Gfn(3), Access::kRead).value(), Content::kCompressible, 7));
  ExpectOk();
}

TEST_P(WireTest, APageThatACloneInheritsIsCopiedFirst) {
  WriteAll(Pages(0, 40));
  ASSERT_EQ(guest_->Wire(Pages(30, 5)), absl::OkStatus());
  mmu_.reset();
  guest_->Freeze();
  GuestMemory* const clone = manager_->Clone(*guest_).value();
  {
    FakeMmu mmu(*clone);
    EXPECT_TRUE(HasContent(mmu.Page(Gfn(12), Access::kRead).value(), Content::kCompressible, 13));
    ASSERT_EQ(clone->Wire(Pages(10, 40)), absl::OkStatus());  // those from 40 on nobody has written
    EXPECT_EQ(clone->wired(), PageCount(40));
    ReclaimAll();
    for (uint64_t gfn = 10; gfn < 50; ++gfn) {
      ASSERT_EQ(clone->EntryOf(Gfn(gfn)).state(), PageState::kResident) << gfn;
      const std::byte* const page = mmu.Page(Gfn(gfn)).value();
      EXPECT_TRUE(gfn < 40 ? HasContent(page, Content::kCompressible, gfn + 1) : HasContent(page, Content::kZero, 0));
    }
  }
  EXPECT_EQ(guest_->wired(), PageCount()) << "the template does not run, and nobody needs its pages where they are";
  for (uint64_t gfn = 30; gfn < 35; ++gfn) EXPECT_EQ(StateOf(gfn), PageState::kSwapped);
  ExpectOk();
  manager_->RemoveGuest(clone);
}

INSTANTIATE_TEST_SUITE_P(BothPlacements, WireTest, ::testing::Values(Placement::kReservation, Placement::kArena),
                         [](const auto& i) { return i.param == Placement::kArena ? "Arena" : "Reservation"; });

// --- Whole blocks, where reservations can have them.

class WireBlockTest : public WireTest {
 protected:
  void SetUp() override {
    Make({});
    if (GetParam() == Placement::kReservation && !manager_->pool().reservations_have_blocks()) {
      GTEST_SKIP() << "no whole blocks in reservations on this host";
    }
  }
};

TEST_P(WireBlockTest, AWholeBlockThatIsWiredStaysWhole) {
  WriteAll(Pages(512, 512));
  ASSERT_TRUE(IsWhole(1));
  ASSERT_EQ(guest_->Wire(Pages(512, 512)), absl::OkStatus());
  const FrameNumber first = EntryOf(512).frame();
  ReclaimAll();
  for (int pass = 0; pass < 3; ++pass) manager_->merger().Pass();
  EXPECT_TRUE(IsWhole(1));
  EXPECT_EQ(EntryOf(512).frame(), first);
  EXPECT_EQ(CountPages(PageState::kResident), 512u);
  guest_->Discard(Pages(512, 512));
  EXPECT_TRUE(IsWhole(1)) << "zeroed where it lies";
  EXPECT_EQ(mmu_->Read(Gfn(1000)), 0u);
  ExpectOk();
}

TEST_P(WireBlockTest, FreshBlocksThatAreWiredComeWhole) {
  ASSERT_EQ(guest_->Wire(Pages(512, 1024)), absl::OkStatus());
  EXPECT_TRUE(IsWhole(1));
  EXPECT_TRUE(IsWhole(2));
  EXPECT_EQ(CountPages(PageState::kResident), 1024u);
}

TEST_P(WireBlockTest, OfAWholeBlockTheOtherPagesCanGo) {
  WriteAll(Pages(512, 512));
  ASSERT_EQ(guest_->Wire(Pages(600, 16)), absl::OkStatus());
  ReclaimAll();
  EXPECT_EQ(CountPages(PageState::kResident), 16u);
  EXPECT_FALSE(IsWhole(1));
  ExpectAll(Pages(512, 512));
}

INSTANTIATE_TEST_SUITE_P(BothPlacements, WireBlockTest, ::testing::Values(Placement::kReservation, Placement::kArena),
                         [](const auto& i) { return i.param == Placement::kArena ? "Arena" : "Reservation"; });

// --- Pages of the arena, which could lie anywhere.

class WiredInArenaTest : public WireTest {
 protected:
  // Faults that are so many in one block that it would be brought in whole.
  void Concentrate(uint64_t block) {
    for (uint64_t i = 0; i < 40; ++i) mmu_->Read(Gfn(block * 512 + i * 37 % 512));
  }
};

TEST_P(WiredInArenaTest, CompactionMovesOthersAndDoesNotTryWiredPages) {
  // Each block of the arena is mostly empty, and in one of them a page is wired.
  WriteAll(Pages(0, kSize.in_pages() / 2));
  for (uint64_t gfn = 0; gfn < kSize.in_pages() / 2; ++gfn) {
    if (gfn % 16 != 0) guest_->Discard(Pages(gfn, 1));
  }
  ASSERT_EQ(guest_->Wire(Pages(1024, 1)), absl::OkStatus());
  const FrameNumber frame = EntryOf(1024).frame();
  EXPECT_EQ(manager_->pool().arena().frames().Get(frame), FrameDescriptor::OwnedAndWired(GuestId{0}, Gfn(1024)));
  manager_->pool().arena().DrainCpuLists();
  EXPECT_GT(manager_->pool().compaction()->MakeFreeBlocks(100), 0u);
  EXPECT_EQ(EntryOf(1024).frame(), frame);
  EXPECT_EQ(manager_->pool().compaction()->counters().refused_cannot.value(), 0u) << "it knows before it begins";
  EXPECT_EQ(manager_->pool().compaction()->counters().refused_wired.value(), 0u);
  ExpectOk();
  for (uint64_t gfn = 0; gfn < kSize.in_pages() / 2; gfn += 16) ExpectAll(Pages(gfn, 1));
}

TEST_P(WiredInArenaTest, AMoveOrEvictionOfAPageThatHasJustBeenWiredIsRefused) {
  WriteAll(Pages(0, 4));
  const FrameNumber frame = EntryOf(2).frame();
  FrameMigrator::Move move = {.from = frame, .owner = FrameDescriptor::Owned(GuestId{0}, Gfn(2))};
  ASSERT_EQ(guest_->Wire(Pages(2, 1)), absl::OkStatus());
  guest_->Migrate(absl::MakeSpan(&move, 1), FrameMigrator::WholeBlocks::kTakeApart);
  EXPECT_EQ(move.answer, FrameMigrator::Answer::kCannot);
  EXPECT_EQ(guest_->EvictPage(Gfn(2), frame), FrameMigrator::Answer::kCannot);
  EXPECT_EQ(EntryOf(2).frame(), frame);
  EXPECT_EQ(manager_->wiring().refused_move.value(), 2u);
  ExpectAll(Pages(0, 4));
}

TEST_P(WiredInArenaTest, ABlockWithAWiredPageDoesNotMoveToBecomeWhole) {
  Make({.advised_only = true});
  Write(512 + 100, 613);
  ASSERT_EQ(guest_->Wire(Pages(512 + 100, 1)), absl::OkStatus());
  const FrameNumber frame = EntryOf(512 + 100).frame();
  guest_->AdviseHuge(PagesOf(BlockNumber(1)), true);
  Concentrate(1);
  EXPECT_FALSE(IsWhole(1));
  EXPECT_EQ(EntryOf(512 + 100).frame(), frame);
  EXPECT_GT(manager_->faults().whole_refused.value(BlockRefusal::kWired), 0u);
  guest_->Unwire(Pages(512 + 100, 1));
  for (uint64_t i = 0; i < 512; ++i) mmu_->Read(Gfn(512 + i * 37 % 512));
  EXPECT_TRUE(IsWhole(1));
  ExpectAll(Pages(512 + 100, 1));
}

INSTANTIATE_TEST_SUITE_P(Arena, WiredInArenaTest, ::testing::Values(Placement::kArena),
                         [](const auto&) { return "Arena"; });

TEST(WiredPagesTest, CountsPagesAndTimes) {
  WiredPages pages;
  EXPECT_TRUE(pages.Add(511));
  EXPECT_FALSE(pages.Add(511));
  EXPECT_TRUE(pages.Add(0));
  EXPECT_EQ(pages.count(), 2u);
  EXPECT_EQ(pages.times(511), 2u);
  EXPECT_FALSE(pages.Remove(511));
  EXPECT_TRUE(pages.contains(511));
  EXPECT_TRUE(pages.Remove(511));
  EXPECT_FALSE(pages.contains(511));
  pages.Forget(0);
  pages.Forget(0);
  EXPECT_EQ(pages.count(), 0u);
}

TEST(WiredPagesTest, APageIsWiredForAsLongAsItIsForAnybody) {
  WiredPages pages;
  EXPECT_TRUE(pages.Add(7, WiredBy::kDevice));
  EXPECT_FALSE(pages.Add(7, WiredBy::kGuest));
  EXPECT_FALSE(pages.Forget(7, WiredBy::kGuest));
  EXPECT_FALSE(pages.Forget(7, WiredBy::kGuest));
  EXPECT_TRUE(pages.contains(7));
  EXPECT_EQ(pages.count(), 1u);
  EXPECT_TRUE(pages.Remove(7, WiredBy::kDevice));
  EXPECT_EQ(pages.count(), 0u);
}

}  // namespace
}  // namespace quire
