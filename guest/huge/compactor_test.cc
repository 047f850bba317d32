#include "guest/huge/compactor.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "guest/frames/fragmentation.h"
#include "guest/huge/compaction_mode.h"
#include "guest/memory_manager.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

constexpr PageCount kLimit = PageCount::OfBlocks(64);

// A guest of the arena whose pages hold what was written to them last, of which only the version is known here.
class Guest {
 public:
  // With `noise`, one page in three does not compress.
  Guest(MemoryManager& manager, PageCount size, bool noise = true)
      : noise_(noise),
        manager_(manager),
        memory_(*manager.AddGuest(size, Placement::kArena).value()),
        mmu_(std::make_unique<FakeMmu>(memory_)),
        versions_(size.in_pages()) {}
  ~Guest() {
    mmu_.reset();
    manager_.RemoveGuest(&memory_);
  }

  GuestMemory& memory() { return memory_; }
  uint64_t size() const { return versions_.size(); }

  void Write(uint64_t page) {
    ++versions_[page];
    ASSERT_EQ(mmu_->WithPage(Gfn(page), Access::kWrite,
                             [&](std::byte* bytes) { FillPage(bytes, ContentOf(page), SeedOf(page)); }),
              absl::OkStatus());
  }
  void ExpectContent(uint64_t page) {
    bool equal = false;
    ASSERT_EQ(mmu_->WithPage(Gfn(page), Access::kRead,
                             [&](std::byte* bytes) { equal = HasContent(bytes, ContentOf(page), SeedOf(page)); }),
              absl::OkStatus());
    ASSERT_TRUE(equal) << "page " << page << " of guest " << memory_.id() << " is not at version " << versions_[page];
  }
  void Discard(uint64_t page) {
    memory_.Discard(GfnRange(Gfn(page), kOnePage));
    versions_[page] = 0;
  }
  void ExpectAll() {
    for (uint64_t page = 0; page < size(); ++page) ExpectContent(page);
  }

 private:
  Content ContentOf(uint64_t page) const {
    if (versions_[page] == 0) return Content::kZero;
    return noise_ && (page + versions_[page]) % 3 == 0 ? Content::kNoise : Content::kCompressible;
  }
  uint64_t SeedOf(uint64_t page) const { return (page + 1) << 32 | versions_[page]; }

  const bool noise_;
  MemoryManager& manager_;
  GuestMemory& memory_;
  std::unique_ptr<FakeMmu> mmu_;
  std::vector<uint32_t> versions_;
};

class CompactorTest : public ::testing::Test {
 protected:
  void Start(CompactionMode mode, bool blocks = true, PageCount reservations = PageCount()) {
    manager_ = MemoryManager::Create({.limit = kLimit,
                                      .reservations = reservations,
                                      .use_memfd = true,
                                      .granularity = {.blocks = blocks},
                                      .compaction = mode,
                                      .on_stopped =
                                          [](GuestMemory& guest, const absl::Status& status) {
                                            ADD_FAILURE() << "guest " << guest.id() << " was stopped: " << status;
                                          }})
                   .value();
  }
  void TearDown() override {
    manager_->StopReclaim();
    for (const FrameRange& frames : taken_) pool().FreeFrames(frames);
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (Guest& guest : guests_) guest.ExpectAll();
    guests_.clear();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    EXPECT_EQ(manager_->store().statistics().held, PageCount());
  }

  Pool& pool() { return manager_->pool(); }
  const CompactionCounters& compaction() { return pool().compaction()->counters(); }
  PageCount Scattered() {
    const ArenaCounts arena = pool().arena().counts();
    return arena.free - arena.free_in_whole_blocks;
  }

  // A guest writes to its memory as long as nothing has to be reclaimed for it, even if it wants whole blocks.
  void Fill() {
    Guest& guest = guests_.emplace_back(*manager_, kLimit);
    for (uint64_t page = 0; pool().FreePages() > pool().watermarks().high + kOneBlock; ++page) guest.Write(page);
  }
  // A guest fills the pool, and gives up all pages but one in `kept`: blocks have little in them, and none is free.
  void Scatter(uint64_t kept) {
    Fill();
    Guest& guest = guests_.back();
    for (uint64_t page = 0; page < guest.size(); ++page) {
      if (page % kept != 0) guest.Discard(page);
    }
    pool().arena().DrainCpuLists();
    TakeBlocks();
    ASSERT_GT(Scattered(), pool().watermarks().high + kOneBlock * 2);
  }

  // Takes all whole blocks that are to be had.
  void TakeBlocks() {
    for (absl::StatusOr<FrameNumber> block = pool().arena().Allocate(kBlockOrder, Reserve::kNormal); block.ok();
         block = pool().arena().Allocate(kBlockOrder, Reserve::kNormal)) {
      taken_.push_back(FrameRange(*block, kOneBlock));
    }
  }

  // Random 4 KiB churn through the whole pool by several guests: pages are written, given up, and compressed.
  void Churn(int operations) {
    std::mt19937 random(1);
    EvictionScratch scratch;
    for (int i = 0; i < 4; ++i) guests_.emplace_back(*manager_, kLimit / 2);
    for (int i = 0; i < operations; ++i) {
      Guest& guest = guests_[random() % guests_.size()];
      const uint64_t page = random() % guest.size();
      const uint32_t kind = random() % 100;
      if (kind < 70) guest.Write(page);
      if (kind >= 70 && kind < 90) guest.ExpectContent(page);
      if (kind >= 90) guest.Discard(page);
      if (i % 500 == 0) manager_->reclaimer().Reclaim(PageCount(64), scratch);
    }
  }

  std::unique_ptr<MemoryManager> manager_;
  std::deque<Guest> guests_;
  std::vector<FrameRange> taken_;
};

TEST_F(CompactorTest, AfterRandomChurnNineTenthsOfWhatIsFreeIsToBeHadAsWholeBlocks) {
  Start(CompactionMode::kBackground, /*blocks=*/false);  // and no daemon
  Churn(150'000);
  // Random frees: half of all.
  std::mt19937 random(2);
  for (Guest& guest : guests_) {
    for (uint64_t page = 0; page < guest.size(); ++page) {
      if (random() % 2 == 0) guest.Discard(page);
    }
  }
  ASSERT_GT(manager_->store().statistics().held, PageCount(2'000)) << "compressed pages have their part in it";
  pool().arena().DrainCpuLists();
  const PageCount free = pool().FreeFrames();
  const PageCount scattered = Scattered();
  const FreeRuns runs = pool().arena().free_runs();
  ASSERT_GT(scattered, kLimit / 5);

  const absl::Time start = absl::Now();
  const uint64_t gained = pool().compaction()->MakeFreeBlocks(UINT64_MAX);
  const double us = absl::ToDoubleMicroseconds(absl::Now() - start);
  std::printf("%.1f MiB scattered (index of unusable free space %d, of fragmentation %d): %d blocks gained, ",
              scattered.bytes().in_mib(), UnusableFreeIndex(runs, kBlockOrder), FragmentationIndex(runs, kBlockOrder),
              static_cast<int>(gained));
  const uint64_t moved = compaction().migrated_pages.value();
  std::printf("%.0f pages migrated for each, %.2f us a page\n",
              static_cast<double>(moved) / static_cast<double>(gained), us / static_cast<double>(moved));
  EXPECT_GE(PageCount::OfBlocks(gained) * 10, scattered * 9);

  std::vector<FrameNumber> blocks;
  for (;;) {
    const absl::StatusOr<FrameNumber> block = pool().arena().Allocate(kBlockOrder, Reserve::kReclaim);
    if (!block.ok()) break;
    blocks.push_back(*block);
  }
  EXPECT_GE(PageCount::OfBlocks(blocks.size()) * 10, free * 9);
  for (const FrameNumber block : blocks) pool().arena().Free(block, kBlockOrder);
}

TEST_F(CompactorTest, PagesMoveWhileGuestsWriteAndReadThem) {
  Start(CompactionMode::kBackground, /*blocks=*/false);
  guests_.emplace_back(*manager_, kLimit / 2);
  guests_.emplace_back(*manager_, kLimit / 2);
  guests_.emplace_back(*manager_, kLimit / 2);
  std::atomic<bool> done = false;
  std::vector<std::thread> vcpus;
  for (uint32_t g = 0; g < 3; ++g) {
    vcpus.emplace_back([&, g] {
      std::mt19937 random(g);
      Guest& guest = guests_[g];
      while (!done && !HasFailure()) {
        const uint64_t page = random() % guest.size();
        const uint32_t kind = random() % 8;
        if (kind < 4) guest.ExpectContent(page);
        if (kind < 5) guest.Write(page);
        if (kind == 5) guest.Discard(page);
        if (kind > 5) guest.ExpectContent(page % 100);
      }
    });
  }
  std::thread reclaimer([&] {
    EvictionScratch scratch;
    while (!done) manager_->reclaimer().Reclaim(PageCount(64), scratch);
  });
  while (!HasFailure() && (compaction().migrated_pages.value() < 5'000 || compaction().blocks.value() < 10 ||
                           compaction().ranges.value() < 2)) {
    pool().compaction()->MakeFreeBlocks(4);
    const absl::StatusOr<FrameRange> wired = pool().AllocateWired(PageCount(700));
    if (wired.ok()) pool().FreeWired(*wired);
  }
  done = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
  reclaimer.join();
}

TEST_F(CompactorTest, AFaultThatIsRefusedABlockMakesOneForItself) {
  Start(CompactionMode::kFault);
  Scatter(/*kept=*/10);
  guests_.emplace_back(*manager_, kLimit);
  const uint64_t whole = manager_->faults().whole.value();
  guests_.back().Write(0);
  EXPECT_EQ(manager_->faults().whole.value(), whole + 1);
  EXPECT_EQ(compaction().blocks.value(), 1u) << "just enough";
  EXPECT_EQ(manager_->compactor().counters().direct.value(), 1u);
}

TEST_F(CompactorTest, InTheBackgroundAFaultGoesOnWithAPageAndTheDaemonMakesBlocks) {
  Start(CompactionMode::kBackground);
  Scatter(/*kept=*/10);
  guests_.emplace_back(*manager_, kLimit);
  const uint64_t whole = manager_->faults().whole.value();
  guests_.back().Write(0);
  EXPECT_EQ(manager_->faults().whole.value(), whole);
  EXPECT_EQ(compaction().blocks.value(), 0u) << "the daemon does not run";
  manager_->compactor().Start();
  while (compaction().blocks.value() < ArenaOptions().free_block_limit) absl::SleepFor(absl::Milliseconds(1));
  manager_->compactor().Stop();
  guests_.back().Write(kPagesPerBlock);
  EXPECT_EQ(manager_->faults().whole.value(), whole + 1);
}

TEST_F(CompactorTest, WhenOffNothingIsMoved) {
  Start(CompactionMode::kOff);
  Scatter(/*kept=*/10);
  EXPECT_EQ(pool().compaction(), nullptr);
  manager_->compactor().Start();
  guests_.emplace_back(*manager_, kLimit);
  guests_.back().Write(0);
  EXPECT_TRUE(absl::IsUnavailable(pool().AllocateWired(PageCount(700)).status()));
  EXPECT_EQ(manager_->compactor().counters().daemon_wakes.value(), 0u);
}

TEST_F(CompactorTest, AWiredRangeIsMadeByMovingWhatIsInTheWay) {
  Start(CompactionMode::kBackground);
  Scatter(/*kept=*/10);
  const absl::StatusOr<FrameRange> wired =
      pool().AllocateWired({.count = PageCount(700), .within = pool().arena().range(), .alignment = PageCount(64)});
  ASSERT_TRUE(wired.ok()) << wired.status();
  EXPECT_GT(compaction().migrated_pages.value(), 0u);
  EXPECT_EQ(compaction().ranges.value(), 1u);
  for (FrameNumber frame = wired->begin(); frame < wired->end(); ++frame) {
    ASSERT_EQ(pool().Frame(frame)[100], std::byte{0});
  }
  pool().FreeWired(*wired);
}

TEST_F(CompactorTest, AWiredRangeIsMadeByCompressingWhatHasNowhereToGo) {
  Start(CompactionMode::kBackground);
  Guest& guest = guests_.emplace_back(*manager_, kLimit, /*noise=*/false);
  for (uint64_t page = 0; pool().FreePages() > pool().watermarks().high + kOneBlock; ++page) guest.Write(page);
  TakeBlocks();
  ASSERT_GT(manager_->faults().whole.value(), 0u) << "blocks of the guest are taken apart";
  const PageCount count = pool().FreeFrames() + PageCount(200);
  const PageCount held = guest.memory().frames_held();
  const absl::StatusOr<FrameRange> wired = pool().AllocateWired(count);
  ASSERT_TRUE(wired.ok()) << wired.status();
  EXPECT_GE(compaction().evicted_pages.value(), 200u);
  EXPECT_GE(guest.memory().frames_held() + count, held) << "no more than the range";
  pool().FreeWired(*wired);
}

TEST_F(CompactorTest, LackOfMemoryIsNotTakenForFragmentation) {
  Start(CompactionMode::kFault);
  Fill();
  TakeBlocks();
  while (pool().HasRoomForBlock()) taken_.push_back(FrameRange(*pool().AllocateFrame(), kOnePage));
  const uint64_t before = manager_->compactor().counters().refused_memory.value();
  manager_->compactor().MakeBlock();
  EXPECT_EQ(manager_->compactor().counters().refused_memory.value(), before + 1);
  EXPECT_EQ(compaction().migrated_pages.value(), 0u);
}

TEST_F(CompactorTest, AfterFailuresOccasionsAreLetPass) {
  Start(CompactionMode::kFault);
  Scatter(/*kept=*/10);
  // A wired frame in each block leaves nothing to empty.
  std::vector<FrameRange> wired;
  for (uint64_t block = 0; block < kLimit.in_blocks_ceil(); ++block) {
    const FrameRange within(FrameNumber(block * kPagesPerBlock), kOneBlock);
    const absl::StatusOr<FrameRange> frame = pool().AllocateWired({.count = kOnePage, .within = within});
    if (frame.ok()) wired.push_back(*frame);
  }
  for (int i = 0; i < 20; ++i) manager_->compactor().MakeBlock();
  // 0, then after 1, 3, 7 that are let pass.
  EXPECT_EQ(manager_->compactor().counters().direct.value(), 4u);
  EXPECT_EQ(manager_->compactor().counters().refused_deferred.value(), 16u);
  for (const FrameRange& range : wired) pool().FreeWired(range);
}

TEST_F(CompactorTest, ReservationsCanUseWhatTheStoreLeavesScattered) {
  constexpr PageCount kReserved = PageCount::OfBlocks(48);
  Start(CompactionMode::kBackground, /*blocks=*/true, kReserved);
  Scatter(/*kept=*/10);
  GuestMemory& window = *manager_->AddGuest(kReserved, Placement::kReservation).value();
  // As much as there is without reclaim.
  uint64_t page = 0;
  const auto touch = [&] { return window.Resolve(Gfn(page), Access::kWrite, Wait::kMustNot); };
  for (; page < kReserved.in_pages(); ++page) {
    if (!touch().ok()) break;
  }
  ASSERT_LT(page, kReserved.in_pages());
  const uint64_t refused_at = page;
  manager_->compactor().Start();
  while (compaction().blocks.value() < ArenaOptions().free_block_limit) absl::SleepFor(absl::Milliseconds(1));
  manager_->compactor().Stop();
  for (; page < kReserved.in_pages(); ++page) {
    if (!touch().ok()) break;
  }
  EXPECT_GE(page, refused_at + 2 * kPagesPerBlock);
  manager_->RemoveGuest(&window);
}

}  // namespace
}  // namespace quire
