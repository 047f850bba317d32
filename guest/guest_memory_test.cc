#include "guest/guest_memory.h"

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/guest_limits.h"
#include "guest/memory_manager.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/swap_area.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr PageCount kSize = PageCount::OfBlocks(4);

// Both ways in which a guest's pages can lie.
class GuestMemoryTest : public ::testing::TestWithParam<Placement> {
 protected:
  void SetUp() override { MakeGuest({}); }
  void MakeGuest(const GranularityOptions& granularity, const GuestLimits& limits = {}) {
    absl::StatusOr<std::unique_ptr<MemoryManager>> manager =
        MemoryManager::Create({.limit = PageCount::OfBlocks(16),
                               .reservations = kSize * 2,
                               .granularity = granularity,
                               .on_stopped = [this](GuestMemory&, const absl::Status& s) { stopped_.push_back(s); }});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
    absl::StatusOr<GuestMemory*> guest = manager_->AddGuest(kSize, GetParam(), limits);
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = *guest;
    mmu_ = std::make_unique<FakeMmu>(*guest_);
  }
  void TearDown() override { RemoveGuest(); }
  void RemoveGuest() {
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    mmu_.reset();
    manager_->RemoveGuest(guest_);
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    EXPECT_EQ(manager_->store().statistics().stored, PageCount());
  }

  // Fills a page with words that compress, but not to nothing.
  void WriteContent(Gfn gfn, uint64_t seed) {
    std::byte* const page = mmu_->Page(gfn).value();
    for (uint64_t i = 0; i < kPageSize / 8; ++i) {
      const uint64_t word = i % 4 == 0 ? (seed + i) * 0x9e3779b97f4a7c15 : seed;
      std::memcpy(page + i * 8, &word, 8);
    }
  }
  bool HasContent(Gfn gfn, uint64_t seed) {
    const std::byte* const page = mmu_->Page(gfn, Access::kRead).value();
    for (uint64_t i = 0; i < kPageSize / 8; ++i) {
      const uint64_t word = i % 4 == 0 ? (seed + i) * 0x9e3779b97f4a7c15 : seed;
      if (std::memcmp(page + i * 8, &word, 8) != 0) return false;
    }
    return true;
  }
  void WriteNoise(Gfn gfn, uint64_t seed) { FillPage(mmu_->Page(gfn).value(), Content::kNoise, seed); }
  bool HasNoise(Gfn gfn, uint64_t seed) {
    return quire::HasContent(mmu_->Page(gfn, Access::kRead).value(), Content::kNoise, seed);
  }
  // Ages and evicts everything, by the reclaimer.
  PageCount ReclaimAll() { return manager_->reclaimer().Reclaim(PageCount(~uint64_t{0} >> 20), scratch_); }

  PageCount AgeBlock(uint64_t number) { return guest_->Age(guest_->BlockAt(BlockNumber(number))); }
  PageState StateOf(uint64_t gfn) { return guest_->EntryOf(Gfn(gfn)).state(); }

  std::vector<absl::Status> stopped_;
  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<FakeMmu> mmu_;
  EvictionScratch scratch_;
};

TEST_P(GuestMemoryTest, FreshMemoryReadsAsZeroAndCostsNothingUntilTouched) {
  EXPECT_EQ(guest_->frames_held(), PageCount());
  const std::byte* const page = mmu_->Page(Gfn(700)).value();
  for (size_t i = 0; i < kPageSize; ++i) ASSERT_EQ(page[i], std::byte{0});
  EXPECT_GE(guest_->frames_held(), kOnePage);
  EXPECT_EQ(StateOf(700), PageState::kResident);
}

TEST_P(GuestMemoryTest, FramesThatHadAnotherContentReadAsZeroAfterwards) {
  for (uint64_t i = 0; i < 64; ++i) WriteContent(Gfn(i), i + 1);
  guest_->Discard(GfnRange(Gfn(0), PageCount(64)));
  EXPECT_EQ(StateOf(3), PageState::kAbsent);
  for (uint64_t i = 0; i < 64; ++i) ASSERT_EQ(mmu_->Read(Gfn(100 + i)), 0u);
}

TEST_P(GuestMemoryTest, AgingDropsTranslationsButKeepsFrames) {
  WriteContent(Gfn(5), 1);
  const PageCount held = guest_->frames_held();
  EXPECT_EQ(AgeBlock(0), held);
  EXPECT_FALSE(mmu_->maps(Gfn(5)));
  EXPECT_EQ(StateOf(5), PageState::kOut);
  EXPECT_EQ(guest_->frames_held(), held);
}

// Only frames of the arena move.
class MigrationTest : public GuestMemoryTest {
 protected:
  using Answer = FrameMigrator::Answer;

  void SetUp() override { MakeGuest({.blocks = false}); }
  FrameNumber FrameOf(uint64_t gfn) { return guest_->EntryOf(Gfn(gfn)).frame(); }
  // Asks for page `gfn` to be moved from `from` to any frame.
  Answer Migrate(uint64_t gfn, FrameNumber from) {
    std::vector<FrameMigrator::Move> moves = {MoveOf(gfn, from)};
    return Migrate(moves)[0];
  }
  FrameMigrator::Move MoveOf(uint64_t gfn, FrameNumber from) {
    return {.from = from,
            .owner = FrameDescriptor::Owned(GuestId{0}, Gfn(gfn)),
            .to = manager_->pool().AllocateFrame().value()};
  }
  std::vector<Answer> Migrate(std::vector<FrameMigrator::Move>& moves) {
    std::vector<Answer> answers;
    guest_->Migrate(absl::MakeSpan(moves), whole_blocks_);
    for (const FrameMigrator::Move& move : moves) {
      answers.push_back(move.answer);
      if (move.answer == Answer::kMoved) {
        EXPECT_EQ(FrameOf(move.owner.gfn().value()), move.to);
      } else {
        manager_->pool().FreeFrame(move.to);
      }
    }
    return answers;
  }

  FrameMigrator::WholeBlocks whole_blocks_ = FrameMigrator::WholeBlocks::kKeep;
};

TEST_P(MigrationTest, AResidentPageMovesWithItsContentAndIsInvalidated) {
  WriteContent(Gfn(5), 1);
  const FrameNumber from = FrameOf(5);
  EXPECT_EQ(Migrate(5, from), Answer::kMoved);
  EXPECT_FALSE(mmu_->maps(Gfn(5)));
  EXPECT_EQ(mmu_->invalidations().back().range, GfnRange(Gfn(5), kOnePage));
  EXPECT_EQ(StateOf(5), PageState::kResident);
  EXPECT_TRUE(HasContent(Gfn(5), 1));
}

TEST_P(MigrationTest, PagesOfABlockMoveByOneInvalidation) {
  std::vector<FrameMigrator::Move> moves;
  for (const uint64_t gfn : {5, 6, 9, 300}) {
    WriteContent(Gfn(gfn), gfn);
    moves.push_back(MoveOf(gfn, FrameOf(gfn)));
  }
  moves.insert(moves.begin() + 2, MoveOf(7, FrameOf(5)));  // it has no frame
  const size_t before = mmu_->invalidations().size();
  EXPECT_THAT(Migrate(moves),
              ElementsAre(Answer::kMoved, Answer::kMoved, Answer::kBusy, Answer::kMoved, Answer::kMoved));
  ASSERT_EQ(mmu_->invalidations().size(), before + 1);
  EXPECT_EQ(mmu_->invalidations().back().range, GfnRange(Gfn(5), Gfn(301)));
  for (const uint64_t gfn : {5, 6, 9, 300}) EXPECT_TRUE(HasContent(Gfn(gfn), gfn));
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
}

TEST_P(MigrationTest, WhatNobodyMapsIsNotInvalidated) {
  WriteContent(Gfn(5), 1);
  AgeBlock(0);
  const size_t before = mmu_->invalidations().size();
  EXPECT_EQ(Migrate(5, FrameOf(5)), Answer::kMoved);
  EXPECT_EQ(mmu_->invalidations().size(), before);
  EXPECT_TRUE(HasContent(Gfn(5), 1));
}

TEST_P(MigrationTest, APageCanBeEvictedWhereItLies) {
  WriteContent(Gfn(5), 1);
  WriteContent(Gfn(6), 2);
  const FrameNumber five = FrameOf(5), six = FrameOf(6);
  EXPECT_EQ(guest_->EvictPage(Gfn(5), six), Answer::kBusy) << "another page's frame";
  EXPECT_EQ(guest_->EvictPage(Gfn(kSize.in_pages()), five), Answer::kBusy) << "no such page";
  EXPECT_EQ(guest_->EvictPage(Gfn(5), five), Answer::kMoved);
  EXPECT_EQ(StateOf(5), PageState::kSwapped);
  EXPECT_FALSE(mmu_->maps(Gfn(5)));
  AgeBlock(0);
  EXPECT_EQ(guest_->EvictPage(Gfn(6), six), Answer::kMoved) << "out";
  EXPECT_TRUE(HasContent(Gfn(5), 1));
  EXPECT_TRUE(HasContent(Gfn(6), 2));
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
}

TEST_P(MigrationTest, APageThatDoesNotCompressCannotBeEvicted) {
  WriteNoise(Gfn(6), 1);
  EXPECT_EQ(guest_->EvictPage(Gfn(6), FrameOf(6)), Answer::kCannot);
  EXPECT_TRUE(guest_->EntryOf(Gfn(6)).incompressible());
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
}

TEST_P(MigrationTest, APageThatIsOutStaysOutAndIncompressible) {
  WriteContent(Gfn(5), 1);
  WriteNoise(Gfn(6), 1);
  AgeBlock(0);
  EXPECT_EQ(Migrate(5, FrameOf(5)), Answer::kMoved);
  EXPECT_EQ(StateOf(5), PageState::kOut);
  guest_->Evict(guest_->BlockAt(BlockNumber(0)), scratch_);
  ASSERT_TRUE(guest_->EntryOf(Gfn(6)).incompressible());
  EXPECT_EQ(Migrate(6, FrameOf(6)), Answer::kMoved);
  EXPECT_TRUE(guest_->EntryOf(Gfn(6)).incompressible());
  EXPECT_TRUE(HasContent(Gfn(5), 1));
}

TEST_P(MigrationTest, ADescriptorThatIsOutOfDateIsRefused) {
  WriteContent(Gfn(5), 1);
  WriteContent(Gfn(6), 2);
  const FrameNumber five = FrameOf(5);
  EXPECT_EQ(Migrate(6, five), Answer::kBusy) << "another page's frame";
  EXPECT_EQ(Migrate(7, five), Answer::kBusy) << "no frame";
  EXPECT_EQ(Migrate(kSize.in_pages(), five), Answer::kBusy) << "no such page";
  ReclaimAll();
  EXPECT_EQ(Migrate(5, five), Answer::kBusy) << "swapped";
  EXPECT_TRUE(HasContent(Gfn(5), 1));
}

TEST_P(MigrationTest, ABlockThatIsLockedIsBusy) {
  WriteContent(Gfn(5), 1);
  const FrameNumber from = FrameOf(5);
  Block& block = guest_->BlockAt(BlockNumber(0));
  block.lock.Lock();
  Answer answer = Answer::kMoved;
  std::thread([&] {
    answer = Migrate(5, from);
    EXPECT_EQ(guest_->EvictPage(Gfn(5), from), Answer::kBusy);
  }).join();
  block.lock.Unlock();
  EXPECT_EQ(answer, Answer::kBusy);
  EXPECT_TRUE(HasContent(Gfn(5), 1));
}

TEST_P(MigrationTest, PagesOfAWholeBlockStayTogether) {
  RemoveGuest();
  MakeGuest({.blocks = true});
  WriteContent(Gfn(5), 1);
  ASSERT_EQ(guest_->frames_held(), kOneBlock);
  EXPECT_EQ(Migrate(5, FrameOf(5)), Answer::kCannot);
  whole_blocks_ = FrameMigrator::WholeBlocks::kTakeApart;
  EXPECT_EQ(Migrate(5, FrameOf(5)), Answer::kMoved);
  whole_blocks_ = FrameMigrator::WholeBlocks::kKeep;
  EXPECT_EQ(Migrate(6, FrameOf(6)), Answer::kMoved) << "it is whole no more";
  EXPECT_TRUE(HasContent(Gfn(5), 1));
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(Arena, MigrationTest, ::testing::Values(Placement::kArena));

TEST_P(GuestMemoryTest, StoredPagesComeBackAsTheyWere) {
  for (uint64_t i = 0; i < kSize.in_pages(); i += 3) WriteContent(Gfn(i), i);
  const PageCount freed = ReclaimAll();
  EXPECT_GE(freed, PageCount(kSize.in_pages() / 3));
  EXPECT_EQ(guest_->frames_held(), PageCount());
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  for (uint64_t i = 0; i < kSize.in_pages(); i += 3) ASSERT_TRUE(HasContent(Gfn(i), i)) << i;
}

TEST_P(GuestMemoryTest, ZeroPagesBecomeAbsentInsteadOfBeingStored) {
  mmu_->Write(Gfn(9), 1);
  mmu_->Write(Gfn(9), 0);
  ReclaimAll();
  EXPECT_EQ(StateOf(9), PageState::kAbsent);
  EXPECT_EQ(manager_->store().statistics().stored, PageCount());
}

TEST_P(GuestMemoryTest, APageThatComesBackAndStaysAsItIsIsNotStoredAgain) {
  WriteContent(Gfn(9), 1);
  WriteContent(Gfn(10), 2);
  ReclaimAll();
  const SwapSlot first = guest_->EntryOf(Gfn(9)).slot();
  const SwapSlot second = guest_->EntryOf(Gfn(10)).slot();
  EXPECT_TRUE(HasContent(Gfn(9), 1));
  WriteContent(Gfn(10), 3);
  EXPECT_EQ(manager_->store().statistics().kept, PageCount(2));
  EXPECT_EQ(manager_->store().statistics().stored, PageCount());
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  ReclaimAll();
  ASSERT_EQ(StateOf(9), PageState::kSwapped);
  ASSERT_EQ(StateOf(10), PageState::kSwapped);
  EXPECT_EQ(guest_->EntryOf(Gfn(9)).slot(), first);
  EXPECT_NE(guest_->EntryOf(Gfn(10)).slot(), second);
  EXPECT_EQ(manager_->swap().unchanged.value(), 1u);
  EXPECT_EQ(manager_->store().statistics().kept, PageCount());
  EXPECT_TRUE(HasContent(Gfn(9), 1));
  EXPECT_TRUE(HasContent(Gfn(10), 3));
}

TEST_P(GuestMemoryTest, CopiesOfPagesThatAreGivenUpGoWithThem) {
  WriteContent(Gfn(9), 1);
  ReclaimAll();
  EXPECT_TRUE(HasContent(Gfn(9), 1));
  ASSERT_EQ(manager_->store().statistics().kept, kOnePage);
  guest_->Discard(GfnRange(Gfn(9), kOnePage));
  EXPECT_EQ(manager_->store().statistics().kept, PageCount());
  EXPECT_EQ(manager_->store().statistics().held, PageCount());
}

TEST_P(GuestMemoryTest, CopiesAreDroppedWhenMemoryIsShortAndTheirPagesAreStoredAnew) {
  WriteContent(Gfn(9), 1);
  ReclaimAll();
  EXPECT_TRUE(HasContent(Gfn(9), 1));
  manager_->store().DropKept(kOnePage);
  EXPECT_EQ(manager_->store().statistics().held, PageCount());
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  ReclaimAll();
  ASSERT_EQ(StateOf(9), PageState::kSwapped);
  EXPECT_EQ(manager_->swap().unchanged.value(), 0u);
  EXPECT_TRUE(HasContent(Gfn(9), 1));
}

TEST_P(GuestMemoryTest, NothingIsKeptBelowTheHighWatermark) {
  WriteContent(Gfn(9), 1);
  ReclaimAll();
  std::vector<FrameNumber> taken;
  while (manager_->pool().FreePages() > manager_->pool().watermarks().high) {
    taken.push_back(manager_->pool().AllocateFrame().value());
  }
  EXPECT_TRUE(HasContent(Gfn(9), 1));
  EXPECT_EQ(manager_->store().statistics().kept, PageCount());
  for (const FrameNumber frame : taken) manager_->pool().FreeFrame(frame);
}

TEST_P(GuestMemoryTest, EveryEvictedPageWasInvalidatedBefore) {
  for (uint64_t i = 0; i < 600; ++i) WriteContent(Gfn(i), i);
  ReclaimAll();
  EXPECT_EQ(mmu_->mapped_pages(), 0u);
  for (const Invalidation& invalidation : mmu_->invalidations()) {
    EXPECT_EQ(BlockOf(invalidation.range.begin()), BlockOf(invalidation.range.end() - kOnePage));
  }
}

TEST_P(GuestMemoryTest, PagesUsedSinceTheLastAgingStayInWhereTheMmuCanTell) {
  RemoveGuest();
  MakeGuest({.blocks = false});
  mmu_->set_has_access_bits(true);
  WriteContent(Gfn(1), 1);
  WriteContent(Gfn(100), 2);
  // The first pass clears both marks, the second finds what was used since.
  AgeBlock(0);
  EXPECT_EQ(StateOf(1), PageState::kResident);
  EXPECT_TRUE(HasContent(Gfn(100), 2));
  AgeBlock(0);
  EXPECT_EQ(StateOf(1), PageState::kOut);
  EXPECT_EQ(StateOf(100), PageState::kResident);
}

TEST_P(GuestMemoryTest, APageThatIsOutComesBackWithoutItsContentBeingMoved) {
  WriteContent(Gfn(1), 1);
  const std::byte* const before = mmu_->Page(Gfn(1)).value();
  AgeBlock(0);
  ASSERT_EQ(StateOf(1), PageState::kOut);
  EXPECT_FALSE(mmu_->maps(Gfn(1)));
  EXPECT_EQ(mmu_->Page(Gfn(1)).value(), before);
  EXPECT_EQ(StateOf(1), PageState::kResident);
}

TEST_P(GuestMemoryTest, ABlockThatDoesNotCompressStaysInMemoryAndIsNotTriedAgain) {
  for (uint64_t i = 0; i < 512; ++i) WriteNoise(Gfn(i), i + 1);
  ReclaimAll();
  ReclaimAll();
  const uint64_t stored = manager_->swap().stored_as_is.value();
  EXPECT_LE(stored, 16u) << "a few go in advance, in case the others compress";
  EXPECT_EQ(guest_->counts()[PageState::kOut], PageCount(512 - stored));
  EXPECT_EQ(manager_->swap().refused_incompressible.value(), 512 - stored);
  ASSERT_EQ(StateOf(500), PageState::kOut);
  mmu_->Write(Gfn(500), 0);  // it may compress now
  EXPECT_FALSE(guest_->EntryOf(Gfn(500)).incompressible());
}

TEST_P(GuestMemoryTest, DamageToAStoredPageStopsTheGuestAndSaysWhich) {
  WriteContent(Gfn(42), 1);
  ReclaimAll();
  ASSERT_EQ(StateOf(42), PageState::kSwapped);
  manager_->store().DamageForTesting(guest_->EntryOf(Gfn(42)).slot());
  const absl::Status status = mmu_->Page(Gfn(42)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("page 42 of guest-0"));
  EXPECT_EQ(StateOf(42), PageState::kPoisoned);
  ASSERT_EQ(stopped_.size(), 1u);
  EXPECT_EQ(stopped_[0], status);
  EXPECT_EQ(mmu_->Page(Gfn(1)).status(), status);  // nothing is served any more
  EXPECT_EQ(manager_->store().statistics().errors, 1u);
}

TEST_P(GuestMemoryTest, DiscardedPagesReadAsZeroWhateverTheirStateWas) {
  WriteContent(Gfn(0), 1);  // will be swapped
  ReclaimAll();
  WriteContent(Gfn(1), 2);  // will be out
  AgeBlock(0);
  WriteContent(Gfn(2), 3);  // resident
  ASSERT_EQ(StateOf(0), PageState::kSwapped);
  guest_->Discard(GfnRange(Gfn(0), PageCount(3)));
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(StateOf(i), PageState::kAbsent);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(mmu_->Read(Gfn(i)), 0u);
}

TEST_P(GuestMemoryTest, APageBeyondTheEndIsRefused) {
  const absl::StatusOr<Resolution> r = guest_->Resolve(Gfn(kSize.in_pages()), Access::kRead, Wait::kMay);
  EXPECT_EQ(r.status().code(), absl::StatusCode::kOutOfRange);
}

TEST_P(GuestMemoryTest, AStoppedGuestsFaultsGetTheReason) {
  guest_->Stop(absl::CancelledError("because"));
  guest_->Stop(absl::InternalError("too late"));
  EXPECT_EQ(guest_->Resolve(Gfn(0), Access::kRead, Wait::kMay).status(), absl::CancelledError("because"));
  EXPECT_EQ(stopped_.size(), 1u);
}

TEST_P(GuestMemoryTest, PagesThatKeepChangingKeepTheirLatestContent) {
  for (uint64_t pass = 0; pass < 3; ++pass) {
    for (uint64_t i = 0; i < kSize.in_pages(); ++i) {
      if (pass > 0) {
        ASSERT_TRUE(HasContent(Gfn(i), i + pass - 1));
      }
      WriteContent(Gfn(i), i + pass);
    }
    ReclaimAll();
  }
  EXPECT_LE(manager_->pool().budget().peak(), manager_->pool().budget().limit());
}

// --- Whole blocks, where reservations can have them.

class WholeBlockTest : public GuestMemoryTest {
 protected:
  void SetUp() override {
    GuestMemoryTest::SetUp();
    if (GetParam() == Placement::kReservation && !manager_->pool().reservations_have_blocks()) {
      GTEST_SKIP() << "no whole blocks in reservations on this host";
    }
  }
  uint64_t CountPages(PageState state) { return guest_->counts()[state].in_pages(); }
  // Faults that each begin where the one before ended.
  void Stream(uint64_t block) {
    for (uint64_t index = 0; index < 40; ++index) mmu_->Read(FirstGfn(BlockNumber(block)) + PageCount(index));
  }
  void WriteBlock(uint64_t block) {
    const GfnRange pages = PagesOf(BlockNumber(block));
    for (Gfn gfn = pages.begin(); gfn < pages.end(); ++gfn) WriteContent(gfn, gfn.value() + 1);
  }
  bool BlockHasContent(uint64_t block) {
    const GfnRange pages = PagesOf(BlockNumber(block));
    for (Gfn gfn = pages.begin(); gfn < pages.end(); ++gfn) {
      if (!HasContent(gfn, gfn.value() + 1)) return false;
    }
    return true;
  }
  // Takes memory until no more than so many blocks can be had before faults have to reclaim.
  void TakeAllBut(uint64_t left) {
    Pool& pool = manager_->pool();
    while (pool.FreePages() >= pool.watermarks().min + PageCount::OfBlocks(left + 1)) {
      absl::StatusOr<FrameRange> block = pool.AllocateWired(kOneBlock);
      if (!block.ok()) return;
      taken_.push_back(*block);
    }
  }
  void GiveBack() {
    for (const FrameRange block : taken_) manager_->pool().FreeWired(block);
    taken_.clear();
  }
  // As if so much had been evicted since the last whole block that another is welcome.
  void EvictHalfOfThePool() {
    for (int i = 0; i < 16; ++i) {
      mmu_->Page(Gfn(3 * 512)).value();
      WriteBlock(3);
      ReclaimAll();
    }
  }

 private:
  std::vector<FrameRange> taken_;
};

TEST_P(WholeBlockTest, AFirstTouchBringsAllOfABlock) {
  mmu_->Write(Gfn(700), 1);
  EXPECT_EQ(CountPages(PageState::kResident), 512u);
  EXPECT_EQ(mmu_->mapped_pages(), 512u);
  EXPECT_EQ(mmu_->faults(), 1u);
  EXPECT_EQ(mmu_->Read(Gfn(1023)), 0u);
}

TEST_P(WholeBlockTest, AgesByOneInvalidationAndComesBackToAStreamByThreeFaults) {
  WriteBlock(1);
  EXPECT_EQ(AgeBlock(1), kOneBlock);
  EXPECT_EQ(mmu_->invalidations().size(), 1u);
  EXPECT_EQ(mmu_->mapped_pages(), 0u);
  const uint64_t faults = mmu_->faults();
  Stream(1);
  EXPECT_LE(mmu_->faults(), faults + 3);
  EXPECT_EQ(CountPages(PageState::kResident), 512u);
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, BlocksSideBySideGoOutByOneInvalidation) {
  for (uint64_t block = 0; block < 4; ++block) WriteBlock(block);
  const size_t before = mmu_->invalidations().size();
  EXPECT_EQ(guest_->AgeBlocks(BlockNumber(0), 4), PageCount::OfBlocks(4));
  EXPECT_EQ(mmu_->invalidations().size(), before + 1);
  EXPECT_EQ(mmu_->mapped_pages(), 0u);
  for (uint64_t block = 0; block < 4; ++block) EXPECT_TRUE(BlockHasContent(block)) << block;
}

TEST_P(WholeBlockTest, AmongBlocksAgedTogetherThoseInUseStayAndPiecesGoByThemselves) {
  mmu_->set_has_access_bits(true);
  for (uint64_t block = 0; block < 4; ++block) WriteBlock(block);
  guest_->AgeBlocks(BlockNumber(0), 4);  // all were in use: forgets it
  EXPECT_EQ(CountPages(PageState::kOut), 0u);
  mmu_->Read(FirstGfn(BlockNumber(1)));
  guest_->Discard(GfnRange(FirstGfn(BlockNumber(3)), PageCount(100)));  // not whole any more
  EXPECT_EQ(guest_->AgeBlocks(BlockNumber(0), 4), PageCount::OfBlocks(3) - PageCount(100));
  EXPECT_EQ(CountPages(PageState::kResident), 512u);
  EXPECT_EQ(StateOf(512), PageState::kResident);
  EXPECT_EQ(guest_->AgeBlocks(BlockNumber(0), 4), kOneBlock) << "what is out already is left alone";
}

TEST_P(WholeBlockTest, ARunOfItCanComeBackAndTheOthersGo) {
  WriteBlock(1);
  AgeBlock(1);
  EXPECT_TRUE(HasContent(Gfn(700), 701));
  EXPECT_EQ(CountPages(PageState::kResident), 16u);
  EvictionScratch scratch;
  EXPECT_EQ(guest_->Evict(guest_->BlockAt(BlockNumber(1)), scratch), PageCount(496));
  EXPECT_EQ(guest_->frames_held(), PageCount(16));
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, WhatWasStoredComesBackWholeToAStream) {
  WriteBlock(1);
  ReclaimAll();
  EXPECT_EQ(guest_->frames_held(), PageCount());
  EvictHalfOfThePool();
  const uint64_t whole = manager_->faults().whole.value();
  Stream(1);
  EXPECT_EQ(manager_->faults().whole.value(), whole + 1);
  EXPECT_EQ(guest_->BlockAt(BlockNumber(1)).number, BlockNumber(1));
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, PagesInUseArePromotedWithoutAWrongByte) {
  WriteBlock(1);
  ReclaimAll();
  EvictHalfOfThePool();
  // Scattered pages, some of which are out again when the block is wanted whole.
  uint64_t i = 0;
  const uint64_t whole = manager_->faults().whole.value();
  for (; manager_->faults().whole.value() == whole && i < 100; ++i) {
    const Gfn gfn(512 + i * 37 % 512);
    EXPECT_TRUE(HasContent(gfn, gfn.value() + 1));
    if (i == 4) AgeBlock(1);
  }
  // Its first touch may still count as one of them.
  EXPECT_LE(i, GranularityOptions().concentrated_faults);
  EXPECT_GE(i, GranularityOptions().concentrated_faults - 1u);
  EXPECT_EQ(CountPages(PageState::kResident), 512u);
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, ADamagedPageStopsTheGuestOnlyWhenItIsAskedFor) {
  WriteBlock(1);
  ReclaimAll();
  EvictHalfOfThePool();
  manager_->store().DamageForTesting(guest_->EntryOf(Gfn(900)).slot());
  Stream(1);
  EXPECT_TRUE(stopped_.empty());
  EXPECT_TRUE(HasContent(Gfn(899), 900));
  EXPECT_TRUE(HasContent(Gfn(901), 902));
  EXPECT_EQ(mmu_->Page(Gfn(900)).status().code(), absl::StatusCode::kDataLoss);
}

TEST_P(WholeBlockTest, SeveralBlocksThatDoNotFitGetPages) {
  WriteBlock(1);
  ReclaimAll();
  TakeAllBut(1);
  const uint64_t whole = manager_->faults().whole.value();
  Stream(1);  // it came whole, by its first touch, only just now
  EXPECT_EQ(manager_->faults().whole.value(), whole);
  GiveBack();
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, WithMemoryEnoughABlockComesBackWholeHoweverSoon) {
  WriteBlock(1);
  ReclaimAll();
  const uint64_t whole = manager_->faults().whole.value();
  Stream(1);
  EXPECT_EQ(manager_->faults().whole.value(), whole + 1);
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, PagesThatDoNotCompressGoAlongWithTheirBlockAndItComesBackWhole) {
  WriteBlock(1);
  for (uint64_t i = 512; i < 1024; i += 5) WriteNoise(Gfn(i), i);
  ReclaimAll();
  EXPECT_EQ(guest_->frames_held(), PageCount());
  EXPECT_GT(manager_->swap().stored_as_is.value(), 90u);
  const uint64_t promotions = manager_->faults().promotions.value();
  Stream(1);
  EXPECT_EQ(CountPages(PageState::kResident), 512u);
  EXPECT_LE(manager_->faults().promotions.value(), promotions + 1);
  for (uint64_t i = 512; i < 1024; ++i) ASSERT_TRUE(i % 5 == 2 ? HasNoise(Gfn(i), i) : HasContent(Gfn(i), i + 1)) << i;
}

TEST_P(WholeBlockTest, APrefetchedBlockIsOutAndWholeAndComesInByOneFault) {
  WriteBlock(1);
  ReclaimAll();
  guest_->Prefetch(BlockNumber(1));
  EXPECT_EQ(manager_->faults().prefetched.value(), 1u);
  EXPECT_EQ(CountPages(PageState::kOut), 512u);
  EXPECT_EQ(mmu_->mapped_pages(), 0u);
  guest_->Prefetch(BlockNumber(1));
  EXPECT_EQ(manager_->faults().prefetched.value(), 1u) << "it is there already";
  const uint64_t faults = mmu_->faults();
  Stream(1);
  EXPECT_LE(mmu_->faults(), faults + 3);
  EXPECT_EQ(CountPages(PageState::kResident), 512u);
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, APrefetchedBlockThatNobodyWantsIsEvictedAgain) {
  WriteBlock(1);
  ReclaimAll();
  guest_->Prefetch(BlockNumber(1));
  ReclaimAll();
  EXPECT_EQ(guest_->frames_held(), PageCount());
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(WholeBlockTest, PrefetchLeavesAloneWhatIsInUseAndMemoryThatIsShort) {
  mmu_->Write(Gfn(512), 7);
  guest_->Prefetch(BlockNumber(1));
  EXPECT_EQ(manager_->faults().prefetched.value(), 0u);
  TakeAllBut(0);
  guest_->Prefetch(BlockNumber(2));
  EXPECT_EQ(manager_->faults().prefetched.value(), 0u);
  GiveBack();
}

TEST_P(WholeBlockTest, WholeBlocksPromotionAndPrefetchKeepToTheGuestsLimit) {
  RemoveGuest();
  MakeGuest({}, {.frames = PageCount::OfBlocks(2)});
  for (uint64_t block = 0; block < 4; ++block) WriteBlock(block);
  for (int round = 0; round < 3; ++round) {
    for (uint64_t block = 0; block < 4; ++block) {
      guest_->Prefetch(BlockNumber((block + 1) % 4));
      Stream(block);
      ASSERT_LE(guest_->frames_held(), PageCount::OfBlocks(2));
      ASSERT_TRUE(BlockHasContent(block));
    }
  }
  ReclaimAll();
  guest_->Prefetch(BlockNumber(0));
  guest_->Prefetch(BlockNumber(1));
  guest_->Prefetch(BlockNumber(2));
  EXPECT_LE(guest_->frames_held(), PageCount::OfBlocks(2));
  EXPECT_LE(guest_->peak_held(), PageCount::OfBlocks(2));
  for (uint64_t block = 0; block < 4; ++block) EXPECT_TRUE(BlockHasContent(block)) << block;
}

// --- Whole blocks where the guest asks for them.

class AdvisedBlockTest : public WholeBlockTest {
 protected:
  void SetUp() override {
    WholeBlockTest::SetUp();
    if (!IsSkipped()) MakeAnotherGuest({.advised_only = true});
  }
  void MakeAnotherGuest(const GranularityOptions& granularity) {
    RemoveGuest();
    MakeGuest(granularity);
  }
  void Advise(BlockNumber block, bool huge = true) { guest_->AdviseHuge(PagesOf(block), huge); }
  bool IsWhole(uint64_t number) {
    Block& block = guest_->BlockAt(BlockNumber(number));
    absl::MutexLock lock(&block.lock);
    return block.whole;
  }
  // Touches every block once, and says which came whole, from block 0 on.
  std::vector<bool> TouchAll() {
    std::vector<bool> whole;
    for (uint64_t block = 0; block < kSize.in_blocks_ceil(); ++block) {
      mmu_->Read(FirstGfn(BlockNumber(block)) + PageCount(100));
      whole.push_back(IsWhole(block));
    }
    return whole;
  }
  uint64_t WholeFaults() { return manager_->faults().whole.value(); }
};

TEST_P(AdvisedBlockTest, NoBlockComesWholeUnasked) {
  EXPECT_THAT(TouchAll(), ElementsAre(false, false, false, false));
  for (uint64_t block = 0; block < 4; ++block) WriteBlock(block);
  EXPECT_EQ(WholeFaults(), 0u);
  EXPECT_EQ(manager_->faults().promotions.value(), 0u) << "all pages of a block are there: it is still in pieces";
  EXPECT_THAT(TouchAll(), ElementsAre(false, false, false, false));
}

TEST_P(AdvisedBlockTest, AFirstTouchBringsAllOfAnAdvisedBlock) {
  Advise(BlockNumber(1));
  EXPECT_EQ(guest_->frames_held(), PageCount()) << "advice alone brings nothing in";
  EXPECT_THAT(TouchAll(), ElementsAre(false, true, false, false));
  EXPECT_EQ(WholeFaults(), 1u);
}

TEST_P(AdvisedBlockTest, BlocksThatLiePartlyInARangeAreNotAdvised) {
  guest_->AdviseHuge(GfnRange(Gfn(1), FirstGfn(BlockNumber(3)) - kOnePage), true);
  EXPECT_THAT(TouchAll(), ElementsAre(false, true, false, false));
}

TEST_P(AdvisedBlockTest, ARangeIsCutToTheGuestsMemoryAndMayBeEmpty) {
  guest_->AdviseHuge(GfnRange(), true);
  guest_->AdviseHuge(GfnRange(Gfn(700), Gfn(600)), true);
  guest_->AdviseHuge(GfnRange(Gfn(~uint64_t{0} - 1), Gfn(~uint64_t{0})), true);
  guest_->AdviseHuge(GfnRange(FirstGfn(BlockNumber(2)), Gfn(~uint64_t{0})), true);
  EXPECT_THAT(TouchAll(), ElementsAre(false, false, true, true));
}

TEST_P(AdvisedBlockTest, AStreamEndsWhereTheAdviceDoes) {
  guest_->AdviseHuge(GfnRange(Gfn(0), PageCount::OfBlocks(2)), true);
  for (uint64_t block = 0; block < 4; ++block) WriteBlock(block);
  ReclaimAll();
  for (uint64_t block = 0; block < 4; ++block) EXPECT_TRUE(BlockHasContent(block));
  EXPECT_TRUE(IsWhole(0) && IsWhole(1));
  EXPECT_FALSE(IsWhole(2) || IsWhole(3));
}

TEST_P(AdvisedBlockTest, WithdrawnAdviceEndsNewBlocksAndLeavesThoseThatAre) {
  Advise(BlockNumber(1));
  WriteBlock(1);
  Advise(BlockNumber(1), false);
  EXPECT_TRUE(IsWhole(1));
  EXPECT_EQ(mmu_->mapped_pages(), 512u);
  EXPECT_EQ(AgeBlock(1), kOneBlock);
  EXPECT_TRUE(BlockHasContent(1)) << "comes back by second chance";
  EXPECT_TRUE(IsWhole(1));
  ReclaimAll();
  EXPECT_TRUE(BlockHasContent(1));
  EXPECT_FALSE(IsWhole(1));
  EXPECT_EQ(WholeFaults(), 1u);
}

TEST_P(AdvisedBlockTest, PrefetchBringsAdvisedBlocksOnly) {
  WriteBlock(1);
  ReclaimAll();
  guest_->Prefetch(BlockNumber(1));
  EXPECT_EQ(manager_->faults().prefetched.value(), 0u);
  EXPECT_EQ(guest_->frames_held(), PageCount());
  Advise(BlockNumber(1));
  guest_->Prefetch(BlockNumber(1));
  EXPECT_EQ(manager_->faults().prefetched.value(), 1u);
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(AdvisedBlockTest, PagesInUseArePromotedOnceTheirBlockIsAdvised) {
  WriteBlock(1);
  ReclaimAll();
  uint64_t touched = 0;
  const auto touch = [&] {
    const Gfn gfn(512 + touched++ * 37 % 512);
    EXPECT_TRUE(HasContent(gfn, gfn.value() + 1));
  };
  while (touched < 40) touch();
  EXPECT_EQ(WholeFaults(), 0u);
  Advise(BlockNumber(1));
  while (WholeFaults() == 0 && touched < 512) touch();
  EXPECT_TRUE(IsWhole(1));
  EXPECT_EQ(manager_->faults().promotions.value(), 1u);
  EXPECT_TRUE(BlockHasContent(1));
}

TEST_P(AdvisedBlockTest, AdviceChangesNothingWhereBlocksAlwaysOrNeverComeWhole) {
  const GfnRange all(Gfn(0), kSize);
  MakeAnotherGuest({});
  guest_->AdviseHuge(all, false);
  EXPECT_THAT(TouchAll(), ElementsAre(true, true, true, true));
  MakeAnotherGuest({.blocks = false});
  guest_->AdviseHuge(all, true);
  EXPECT_THAT(TouchAll(), ElementsAre(false, false, false, false));
}

// --- Pages in a swap area.

// Page kFar of the first guest lies in a part of the store of its own, all others in another one.
class SwapAreaFaultTest : public ::testing::TestWithParam<Placement> {
 protected:
  static constexpr uint64_t kFar = 5;
  static constexpr uint64_t kPages = 16;
  static constexpr ByteCount kFarOffset = ByteCount::Bytes(SwapArea::kClusterBytes);  // in the second cluster

  struct Guest {
    GuestMemory* memory;
    std::unique_ptr<FakeMmu> mmu;
  };

  void SetUp() override {
    auto store = std::make_unique<FakeBackingStore>(ByteCount::MiB(16));
    store_ = store.get();
    const auto open = [&]() -> absl::StatusOr<std::vector<std::unique_ptr<BackingStore>>> {
      std::vector<std::unique_ptr<BackingStore>> stores;
      stores.push_back(std::move(store));
      return stores;
    };
    manager_ = MemoryManager::Create(
                   {.limit = PageCount::OfBlocks(16),
                    .reservations = kSize * 2,
                    .use_memfd = true,
                    .open_swap = open,
                    .on_stopped = [this](GuestMemory& guest, const absl::Status&) { stopped_.push_back(guest.id()); }})
                   .value();
    for (Guest& guest : guests_) {
      guest.memory = manager_->AddGuest(kSize, GetParam()).value();
      guest.mmu = std::make_unique<FakeMmu>(*guest.memory);
    }
    for (Guest& guest : guests_) {
      for (uint64_t gfn = 0; gfn < kPages; ++gfn) {
        if (&guest != &guests_[0] || gfn != kFar) Write(guest, gfn);
      }
    }
    WriteOut();
    Write(guests_[0], kFar);
    WriteOut();
    ASSERT_EQ(manager_->store().areas()[0]->counters().pages.value(), 2 * kPages);
  }
  void TearDown() override {
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (Guest& guest : guests_) {
      guest.mmu.reset();
      manager_->RemoveGuest(guest.memory);
    }
    EXPECT_EQ(manager_->store().statistics().stored, PageCount());
  }

  void Write(Guest& guest, uint64_t gfn) {
    FillPage(guest.mmu->Page(Gfn(gfn)).value(), Content::kCompressible, gfn + 1);
  }
  // Takes all pages to the area, in one batch; to ask for more would have the area cleaned. What came along for a first
  // touch is absent again.
  void WriteOut() {
    manager_->reclaimer().Reclaim(PageCount(~uint64_t{0} >> 20), scratch_);
    manager_->store().WriteOut(ByteCount::Bytes(1));
  }
  absl::Status ReadPage(Guest& guest, uint64_t gfn) {
    bool equal = false;
    const absl::Status status = guest.mmu->WithPage(Gfn(gfn), Access::kRead, [&](std::byte* page) {
      equal = quire::HasContent(page, Content::kCompressible, gfn + 1);
    });
    return status.ok() && !equal ? absl::InternalError("a wrong byte") : status;
  }
  void ExpectAllBut(Guest& guest, uint64_t missing) {
    for (uint64_t gfn = 0; gfn < kPages; ++gfn) {
      if (gfn != missing) {
        EXPECT_EQ(ReadPage(guest, gfn), absl::OkStatus()) << gfn;
      }
    }
  }
  void Damage() { store_->FlipByte(kFarOffset.in_bytes() + 100); }
  // Reads of the part that holds page kFar fail.
  void FailToRead(absl::Status status) {
    store_->on_read = [status = std::move(status)](absl::Span<const BackingStore::Transfer> transfers) {
      for (const BackingStore::Transfer& transfer : transfers) {
        if (transfer.offset == kFarOffset) return status;
      }
      return absl::OkStatus();
    };
  }
  // The first guest is stopped by that page, with these words; the second goes on.
  void ExpectStopped(const char* store, const char* cause) {
    const absl::Status status = ReadPage(guests_[0], kFar);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("page 5 of guest-0 cannot be read back"), HasSubstr(store), HasSubstr(cause)));
    EXPECT_EQ(guests_[0].memory->status(), status);
    EXPECT_THAT(stopped_, ElementsAre(0u));
    ExpectAllBut(guests_[1], kPages);
    guests_[1].mmu->Write(Gfn(kPages), 7);
    EXPECT_EQ(guests_[1].mmu->Read(Gfn(kPages)), 7u);
    EXPECT_FALSE(guests_[1].memory->stopped());
  }

  FakeBackingStore* store_ = nullptr;
  std::vector<unsigned> stopped_;
  std::unique_ptr<MemoryManager> manager_;
  std::array<Guest, 2> guests_;
  EvictionScratch scratch_;
};

TEST_P(SwapAreaFaultTest, WhatIsThereComesBack) {
  for (Guest& guest : guests_) ExpectAllBut(guest, kPages);
  EXPECT_TRUE(stopped_.empty());
}

TEST_P(SwapAreaFaultTest, WhatComesBackFromAnAreaAndStaysAsItIsIsNotWrittenAgain) {
  ExpectAllBut(guests_[0], kPages);
  const uint64_t written = manager_->store().areas()[0]->counters().bytes_written.value();
  manager_->reclaimer().Reclaim(PageCount(2 * kPages), scratch_);
  EXPECT_EQ(manager_->swap().unchanged.value(), kPages);
  EXPECT_EQ(manager_->store().areas()[0]->counters().bytes_written.value(), written);
  ExpectAllBut(guests_[0], kPages);
}

TEST_P(SwapAreaFaultTest, ADamagedPageStopsTheGuestThatNeedsItAndNoOther) {
  Damage();
  ExpectAllBut(guests_[0], kFar);
  EXPECT_FALSE(guests_[0].memory->stopped()) << "it has not asked for the damaged page";
  ExpectStopped("the fake store", "is damaged");
  EXPECT_GT(manager_->store().areas()[0]->counters().errors.value(), 0u);
}

TEST_P(SwapAreaFaultTest, APageThatCannotBeReadStopsTheGuestThatNeedsItAndNoOther) {
  FailToRead(absl::DataLossError("the fake store failed to read: no more magnetism"));
  ExpectAllBut(guests_[0], kFar);
  EXPECT_FALSE(guests_[0].memory->stopped()) << "it has not asked for the page that cannot be read";
  ExpectStopped("the fake store", "no more magnetism");
}

TEST_P(SwapAreaFaultTest, AStoreThatDoesNotComeBackInTimeStopsTheGuestThatNeedsIt) {
  FailToRead(absl::UnavailableError("the fake store has been away for long"));
  ExpectStopped("the fake store", "has been away for long");
}

TEST_P(SwapAreaFaultTest, AFaultThatMustNotWaitReadsNothingAndStopsNobody) {
  Damage();
  const uint64_t reads = store_->reads;
  for (const uint64_t gfn : {kFar, kFar + 1}) {
    const absl::StatusOr<Resolution> resolution = guests_[0].memory->Resolve(Gfn(gfn), Access::kRead, Wait::kMustNot);
    EXPECT_EQ(resolution.status().code(), absl::StatusCode::kUnavailable) << gfn;
  }
  EXPECT_EQ(store_->reads, reads);
  EXPECT_TRUE(stopped_.empty());
  ExpectStopped("the fake store", "is damaged");
}

INSTANTIATE_TEST_SUITE_P(Placements, SwapAreaFaultTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

INSTANTIATE_TEST_SUITE_P(Placements, AdvisedBlockTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

INSTANTIATE_TEST_SUITE_P(Placements, WholeBlockTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

INSTANTIATE_TEST_SUITE_P(Placements, GuestMemoryTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

}  // namespace
}  // namespace quire
