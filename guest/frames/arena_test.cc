#include "guest/frames/arena.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/fake_block_source.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr FrameRange kEverywhere(FrameNumber(0), FrameTable::kMaxSize);

FrameNumber BlockHead(uint64_t n) { return FrameNumber(n * kPagesPerBlock); }

// Which of two CPUs the test pretends to run on.
int g_cpu = 0;

class ArenaTest : public testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 16;
  static constexpr uint64_t kFreeBlockLimit = 2;

  void SetUp() override { g_cpu = 0; }
  void TearDown() override { ExpectSound(); }

  FrameNumber Allocate(int order) { return arena_->Allocate(order, Reserve::kNormal).value(); }
  std::vector<FrameNumber> AllocateMany(uint64_t n, int order) {
    std::vector<FrameNumber> frames(n);
    for (FrameNumber& frame : frames) frame = Allocate(order);
    return frames;
  }
  void FreeAll(const std::vector<FrameNumber>& frames, int order) {
    for (const FrameNumber frame : frames) arena_->Free(frame, order);
  }
  void ExpectSound() {
    EXPECT_EQ(arena_->Check(), absl::OkStatus());
    EXPECT_EQ(arena_->counts().live, PageCount::OfBlocks(source_.blocks().size()));
  }

  FakeBlockSource source_{/*limit=*/8, /*reserve=*/2};
  std::unique_ptr<Arena> arena_ =
      Arena::Create(PageCount::OfBlocks(kBlocks), &source_,
                    {.free_block_limit = kFreeBlockLimit, .cpu_lists = 2, .current_cpu = [] { return g_cpu; }})
          .value();
};

TEST_F(ArenaTest, TakesNoBlockBeforeItNeedsOne) {
  EXPECT_TRUE(source_.blocks().empty());
  EXPECT_EQ(arena_->counts().live, PageCount(0));
  EXPECT_EQ(arena_->ReturnFreeBlocks(kOneBlock), PageCount(0));
}

TEST_F(ArenaTest, GrowsByTheLowestAbsentBlock) {
  const auto blocks = AllocateMany(3, kBlockOrder);
  EXPECT_THAT(source_.blocks(), ElementsAre(BlockHead(0), BlockHead(1), BlockHead(2)));
  arena_->Free(blocks[1], kBlockOrder);
  EXPECT_EQ(arena_->ReturnFreeBlocks(kOnePage), kOneBlock);
  EXPECT_THAT(source_.blocks(), ElementsAre(BlockHead(0), BlockHead(2)));
  EXPECT_EQ(Allocate(kBlockOrder), BlockHead(1));
  FreeAll(blocks, kBlockOrder);
}

TEST_F(ArenaTest, OneBlockServesAsManySingleFramesAsItHas) {
  const auto frames = AllocateMany(kPagesPerBlock, 0);
  EXPECT_EQ(std::set<FrameNumber>(frames.begin(), frames.end()).size(), kPagesPerBlock);
  EXPECT_EQ(source_.acquired(), 1u);
  ExpectSound();
  FreeAll(frames, 0);
}

TEST_F(ArenaTest, AllocatedFramesAreBusyUntilTypedAndForgetTheirTypeWhenFreed) {
  const FrameNumber single = Allocate(0);
  const FrameNumber run = Allocate(2);
  EXPECT_TRUE(arena_->frames().Get(single).is(FrameKind::kBusy));
  EXPECT_TRUE(arena_->frames().Get(run + PageCount(3)).is(FrameKind::kBusy));
  arena_->frames().Set(single, FrameDescriptor::Owned(GuestId{2}, Gfn(77)));
  arena_->frames().Set(run, FrameDescriptor::Zone(2, 5));
  ExpectSound();
  arena_->Free(single, 0);
  arena_->Free(run, 2);
  EXPECT_TRUE(arena_->frames().Get(single).is(FrameKind::kCached));
}

TEST_F(ArenaTest, ARefusedBlockIsUnavailableAndSaysWhatWasAskedFor) {
  const auto blocks = AllocateMany(6, kBlockOrder);
  const absl::Status status = arena_->Allocate(3, Reserve::kNormal).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("order 3"));
  EXPECT_THAT(status.message(), HasSubstr("the fake source has no more blocks"));
  FreeAll(blocks, kBlockOrder);
}

TEST_F(ArenaTest, ReclaimMayUseWhatNormalAllocationsMayNot) {
  auto blocks = AllocateMany(6, kBlockOrder);
  EXPECT_FALSE(arena_->Allocate(0, Reserve::kNormal).ok());
  for (int i = 0; i < 2; ++i) blocks.push_back(arena_->Allocate(kBlockOrder, Reserve::kReclaim).value());
  EXPECT_FALSE(arena_->Allocate(0, Reserve::kReclaim).ok());
  FreeAll(blocks, kBlockOrder);
}

TEST_F(ArenaTest, AnArenaThatIsAllLiveIsUnavailable) {
  source_.set_limit(100);
  const auto blocks = AllocateMany(kBlocks, kBlockOrder);
  const absl::Status status = arena_->Allocate(0, Reserve::kNormal).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("no absent block"));
  EXPECT_EQ(source_.acquired(), kBlocks);
  FreeAll(blocks, kBlockOrder);
}

TEST_F(ArenaTest, FramesInTheListOfAnotherCpuAreFoundBeforeAllocationFails) {
  source_.set_limit(3);  // one of them for normal allocations
  const auto frames = AllocateMany(kPagesPerBlock, 0);
  arena_->Free(frames[5], 0);
  EXPECT_EQ(arena_->pages_in_cpu_lists(), PageCount(1));
  g_cpu = 1;
  EXPECT_EQ(arena_->Allocate(0, Reserve::kNormal).value(), frames[5]);
  EXPECT_FALSE(arena_->Allocate(0, Reserve::kNormal).ok());
  FreeAll(frames, 0);
}

TEST_F(ArenaTest, FramesInListsMergeWithOthersForALargerRun) {
  source_.set_limit(3);  // one of them for normal allocations
  const auto frames = AllocateMany(kPagesPerBlock, 0);
  for (const FrameNumber frame : frames) {
    g_cpu ^= 1;
    arena_->Free(frame, 0);
  }
  ASSERT_GT(arena_->pages_in_cpu_lists(), PageCount(Arena::kCpuListCapacity));
  const FrameNumber block = Allocate(kBlockOrder);
  EXPECT_EQ(arena_->pages_in_cpu_lists(), PageCount(0));
  arena_->Free(block, kBlockOrder);
}

TEST_F(ArenaTest, ACpuListKeepsNoMoreThanItsCapacity) {
  const auto frames = AllocateMany(300, 0);
  FreeAll(frames, 0);
  EXPECT_LE(arena_->pages_in_cpu_lists(), PageCount(Arena::kCpuListCapacity));
  EXPECT_EQ(arena_->counts().free + arena_->pages_in_cpu_lists(), arena_->counts().live);
  arena_->DrainCpuLists();
  EXPECT_EQ(arena_->counts().free, arena_->counts().live);
  EXPECT_EQ(arena_->free_runs()[kBlockOrder], 1u);
}

TEST_F(ArenaTest, FreeBlocksBeyondTheLimitGoBackToTheSourceAtOnce) {
  const auto blocks = AllocateMany(5, kBlockOrder);
  FreeAll(blocks, kBlockOrder);
  EXPECT_EQ(source_.blocks().size(), kFreeBlockLimit);
  EXPECT_EQ(arena_->counts().free_in_whole_blocks, PageCount::OfBlocks(kFreeBlockLimit));
}

TEST_F(ArenaTest, BlocksThatEmptyByDrainingListsGoBackToo) {
  const auto frames = AllocateMany(5 * kPagesPerBlock, 0);
  FreeAll(frames, 0);
  arena_->DrainCpuLists();
  EXPECT_EQ(source_.blocks().size(), kFreeBlockLimit);
}

TEST_F(ArenaTest, AFreeBlockThatWasKeptIsUsedAgainWithoutTheSource) {
  arena_->Free(Allocate(kBlockOrder), kBlockOrder);
  arena_->Free(Allocate(kBlockOrder), kBlockOrder);
  EXPECT_EQ(source_.acquired(), 1u);
}

TEST_F(ArenaTest, ReturnsAsManyFreeBlocksAsWantedAndThenOnlySurplus) {
  const auto blocks = AllocateMany(4, kBlockOrder);
  arena_->Free(blocks[0], kBlockOrder);
  arena_->Free(blocks[2], kBlockOrder);
  EXPECT_EQ(arena_->ReturnFreeBlocks(PageCount(0)), PageCount(0));
  EXPECT_EQ(arena_->ReturnFreeBlocks(PageCount(1)), kOneBlock);
  EXPECT_EQ(arena_->ReturnFreeBlocks(PageCount(5000)), kOneBlock);
  EXPECT_EQ(source_.blocks().size(), 2u);
  arena_->Free(blocks[1], kBlockOrder);
  arena_->Free(blocks[3], kBlockOrder);
}

TEST_F(ArenaTest, ContiguousFramesComeFromLiveBlocksWhereTheyFit) {
  const FrameNumber first = Allocate(0);
  const FrameRange range = arena_->AllocateContiguous({PageCount(300), kEverywhere}, Reserve::kNormal).value();
  EXPECT_EQ(source_.acquired(), 1u);
  EXPECT_FALSE(range.contains(first));
  arena_->FreeContiguous(range);
  arena_->Free(first, 0);
}

TEST_F(ArenaTest, ContiguousFramesReachIntoAbsentBlocksAndTheirTailIsFree) {
  const FrameNumber first = Allocate(0);
  ASSERT_EQ(first, FrameNumber(0));
  const FrameRange range = arena_->AllocateContiguous({PageCount(1200), kEverywhere}, Reserve::kNormal).value();
  EXPECT_EQ(range, FrameRange(FrameNumber(1), PageCount(1200)));
  EXPECT_EQ(source_.acquired(), 3u);
  EXPECT_EQ(arena_->counts().free, PageCount::OfBlocks(3) - PageCount(1201));
  ExpectSound();
  arena_->FreeContiguous(range);
  arena_->Free(first, 0);
}

TEST_F(ArenaTest, ContiguousFramesInAHighRangeMakeOnlyTheirBlocksLive) {
  const FrameRange within(BlockHead(10), PageCount::OfBlocks(3));
  const FrameRange range =
      arena_->AllocateContiguous({PageCount(600), within, PageCount(256), PageCount(1024)}, Reserve::kNormal).value();
  EXPECT_EQ(range, FrameRange(BlockHead(10), PageCount(600)));
  EXPECT_THAT(source_.blocks(), ElementsAre(BlockHead(10), BlockHead(11)));
  EXPECT_LT(Allocate(5), BlockHead(12));
  arena_->Free(BlockHead(11) + PageCount(96), 5);
  arena_->FreeContiguous(range);
}

TEST_F(ArenaTest, ContiguousFramesThatTheSourceRefusesLeaveNothingBehind) {
  const FrameNumber first = Allocate(0);
  const ContiguousRequest request = {PageCount::OfBlocks(8), kEverywhere};
  const absl::Status status = arena_->AllocateContiguous(request, Reserve::kNormal).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("4096 adjacent frames"));
  EXPECT_EQ(arena_->counts().free, arena_->counts().live - kOnePage);
  EXPECT_LE(arena_->counts().free_in_whole_blocks, PageCount::OfBlocks(kFreeBlockLimit));
  ExpectSound();
  arena_->Free(first, 0);
}

TEST_F(ArenaTest, ContiguousFramesThatFitNowhereAreUnavailableAndNonsenseIsInvalid) {
  const FrameRange within(FrameNumber(3), PageCount(10));
  EXPECT_EQ(arena_->AllocateContiguous({PageCount(11), within}, Reserve::kNormal).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(arena_->AllocateContiguous({PageCount(1), within, PageCount(3)}, Reserve::kNormal).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(source_.acquired(), 0u);
}

TEST_F(ArenaTest, MetadataFollowsTheHighestBlockThatWasEverLive) {
  EXPECT_EQ(arena_->metadata_size(), ByteCount());
  const auto blocks = AllocateMany(3, kBlockOrder);
  EXPECT_EQ(arena_->metadata_size(), ByteCount::KiB(12));
  FreeAll(blocks, kBlockOrder);
}

TEST_F(ArenaTest, FreeingTwiceStopsTheProgram) {
  const FrameNumber frame = Allocate(0);
  arena_->Free(frame, 0);
  EXPECT_DEATH(arena_->Free(frame, 0), "broken invariant");
  const FrameNumber run = Allocate(4);
  arena_->Free(run, 4);
  EXPECT_DEATH(arena_->Free(run, 4), "broken invariant");
}

TEST_F(ArenaTest, DestroyingAnArenaInUseStopsTheProgram) {
  const FrameNumber frame = Allocate(0);
  EXPECT_DEATH(arena_.reset(), "broken invariant");
  arena_->Free(frame, 0);
}

TEST_F(ArenaTest, CheckNoticesACachedFrameThatIsInNoListAndAListedOneThatIsNotCached) {
  const FrameNumber frame = Allocate(0);
  arena_->frames().Set(frame, FrameDescriptor::Cached());
  EXPECT_EQ(arena_->Check().code(), absl::StatusCode::kInternal);
  arena_->frames().Set(frame, FrameDescriptor::Busy());
  arena_->Free(frame, 0);
  arena_->frames().Set(frame, FrameDescriptor::Wired());
  EXPECT_EQ(arena_->Check().code(), absl::StatusCode::kInternal);
  arena_->frames().Set(frame, FrameDescriptor::Cached());
}

TEST(ArenaCreateTest, RefusesASizeThatIsNotWholeBlocks) {
  FakeBlockSource source(1);
  EXPECT_EQ(Arena::Create(PageCount(100), &source).status().code(), absl::StatusCode::kInvalidArgument);
}

// Threads allocate and free at random, each marking what it owns; now and then one drains, gives back or checks. A
// frame that is handed out twice, or lost, shows.
class ArenaStressTest : public testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 24;
  static constexpr int kThreads = 4;
  static constexpr int kOperations = 10'000;

  struct Worker {
    explicit Worker(uint16_t id) : id(id), random(id) {}
    uint64_t Random(uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random); }

    uint16_t id;
    std::mt19937_64 random;
    std::vector<FrameRange> owned;
  };

  void Run(Worker& worker) {
    for (int i = 0; i < kOperations; ++i) {
      const uint64_t op = worker.Random(1000);
      if (op < 500) {
        AllocateRun(worker);
      } else if (op < 520) {
        AllocateContiguous(worker);
      } else if (op < 980) {
        FreeSomething(worker);
      } else if (op < 995) {
        arena_->ReturnFreeBlocks(PageCount(worker.Random(2) * kPagesPerBlock));
      } else {
        Look();
      }
      if (HasFatalFailure()) return;
    }
    while (!worker.owned.empty() && !HasFatalFailure()) FreeSomething(worker);
  }

  void AllocateRun(Worker& worker) {
    const int order = worker.Random(3) == 0 ? static_cast<int>(worker.Random(BuddyAllocator::kOrders)) : 0;
    const auto frame = arena_->Allocate(order, worker.Random(8) == 0 ? Reserve::kReclaim : Reserve::kNormal);
    if (frame.ok()) {
      Own(worker, FrameRange(*frame, PageCount::OfOrder(order)));
    } else {
      ASSERT_EQ(frame.status().code(), absl::StatusCode::kUnavailable);
    }
  }

  void AllocateContiguous(Worker& worker) {
    const ContiguousRequest request = {.count = PageCount(1 + worker.Random(1500)),
                                       .within = kEverywhere,
                                       .alignment = PageCount(uint64_t{1} << worker.Random(6))};
    const auto range = arena_->AllocateContiguous(request, Reserve::kNormal);
    if (range.ok()) Own(worker, *range);
  }

  void Own(Worker& worker, FrameRange range) {
    for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) {
      ASSERT_EQ(owner_[frame.value()].exchange(worker.id), 0) << frame << " handed out twice";
      arena_->frames().Set(frame, FrameDescriptor::Owned(GuestId{worker.id}, Gfn(frame.value())));
    }
    worker.owned.push_back(range);
  }

  void FreeSomething(Worker& worker) {
    if (worker.owned.empty()) return;
    std::swap(worker.owned[worker.Random(worker.owned.size())], worker.owned.back());
    const FrameRange range = worker.owned.back();
    worker.owned.pop_back();
    for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) {
      ASSERT_EQ(arena_->frames().Get(frame), FrameDescriptor::Owned(GuestId{worker.id}, Gfn(frame.value())));
      ASSERT_EQ(owner_[frame.value()].exchange(0), worker.id);
    }
    if (range.size() == kOnePage) {
      arena_->Free(range.begin(), 0);
    } else {
      arena_->FreeContiguous(range);
    }
  }

  void Look() {
    ASSERT_EQ(arena_->Check(), absl::OkStatus());
    const ArenaCounts counts = arena_->counts();
    ASSERT_LE(counts.free, counts.live);
    ASSERT_LE(counts.free_in_whole_blocks, counts.free);
    arena_->DrainCpuLists();
  }

  FakeBlockSource source_{/*limit=*/16, /*reserve=*/2};
  std::unique_ptr<Arena> arena_ =
      Arena::Create(PageCount::OfBlocks(kBlocks), &source_, {.free_block_limit = 2}).value();
  std::array<std::atomic<uint16_t>, kBlocks* kPagesPerBlock> owner_ = {};
};

TEST_F(ArenaStressTest, NoFrameIsHandedOutTwiceOrLost) {
  std::vector<Worker> workers;
  for (uint16_t id = 1; id <= kThreads; ++id) workers.emplace_back(id);
  std::vector<std::thread> threads;
  for (Worker& worker : workers) threads.emplace_back([this, &worker] { Run(worker); });
  for (std::thread& thread : threads) thread.join();
  arena_->DrainCpuLists();
  EXPECT_EQ(arena_->Check(), absl::OkStatus());
  EXPECT_EQ(arena_->counts().free, arena_->counts().live);
  EXPECT_EQ(arena_->counts().live, PageCount::OfBlocks(source_.blocks().size()));
  EXPECT_LE(source_.blocks().size(), 2u);
}

// --- Isolation.

TEST_F(ArenaTest, WhatIsFreeInAnIsolatedRangeIsNotHandedOutAndCountsAsFree) {
  const std::vector<FrameNumber> frames = AllocateMany(kPagesPerBlock * 2, 0);
  for (const FrameNumber frame : frames) {
    if (frame.value() % 2 == 1) arena_->Free(frame, 0);  // some of them to the list of this CPU
  }
  arena_->Isolate(FrameRange(BlockHead(0), kOneBlock));
  ExpectSound();
  EXPECT_EQ(arena_->counts().free, kOneBlock);
  for (const FrameNumber frame : AllocateMany(kPagesPerBlock / 2, 0)) {
    ASSERT_GE(frame, BlockHead(1));
    arena_->Free(frame, 0);
  }
  EXPECT_FALSE(arena_->EndIsolation());
  for (const FrameNumber frame : frames) {
    if (frame.value() % 2 == 0) arena_->Free(frame, 0);
  }
}

TEST_F(ArenaTest, WhatFallsFreeInAnIsolatedRangeIsSetAsideUntilItIsEmpty) {
  const std::vector<FrameNumber> frames = AllocateMany(kPagesPerBlock, 0);
  arena_->Isolate(FrameRange(BlockHead(0), kOneBlock));
  FreeAll(frames, 0);
  for (const FrameNumber frame : frames) ASSERT_TRUE(arena_->frames().Get(frame).is(FrameKind::kIsolated));
  ExpectSound();
  EXPECT_EQ(arena_->counts().free_in_whole_blocks, PageCount());
  EXPECT_TRUE(arena_->EndIsolation());
  EXPECT_EQ(arena_->counts().free_in_whole_blocks, kOneBlock);
}

TEST_F(ArenaTest, ARunThatIsPartlyIsolatedIsFreedInParts) {
  const FrameRange range =
      arena_->AllocateContiguous({.count = PageCount(700), .within = kEverywhere}, Reserve::kNormal).value();
  const FrameRange isolated(range.begin() + PageCount(100), PageCount(300));
  arena_->Isolate(isolated);
  arena_->FreeContiguous(range);
  ExpectSound();
  for (FrameNumber frame = isolated.begin(); frame < isolated.end(); ++frame) {
    ASSERT_TRUE(arena_->frames().Get(frame).is(FrameKind::kIsolated));
  }
  EXPECT_EQ(arena_->TakeIsolated(Reserve::kNormal).value(), isolated);
  EXPECT_FALSE(arena_->IsIsolating());
  ExpectSound();
  arena_->FreeContiguous(isolated);
}

TEST_F(ArenaTest, AnIsolatedRangeThatIsInUseIsNotTaken) {
  const FrameNumber frame = Allocate(0);
  arena_->Isolate(FrameRange(BlockHead(0), kOneBlock));
  EXPECT_TRUE(absl::IsUnavailable(arena_->TakeIsolated(Reserve::kNormal).status()));
  EXPECT_FALSE(arena_->IsIsolating());
  arena_->Free(frame, 0);
}

TEST_F(ArenaTest, AnAllocationEndsIsolationRatherThanFailUnlessItWantsABlock) {
  std::vector<FrameNumber> frames = AllocateMany(6 * kPagesPerBlock, 0);  // all that the source grants
  arena_->Free(frames.back(), 0);
  frames.pop_back();
  const FrameNumber hole = frames.back() + kOnePage;
  arena_->Isolate(FrameRange(hole, kOnePage));
  EXPECT_FALSE(arena_->Allocate(kBlockOrder, Reserve::kNormal).ok());
  EXPECT_TRUE(arena_->IsIsolating());
  frames.push_back(Allocate(0));
  EXPECT_EQ(frames.back(), hole);
  EXPECT_FALSE(arena_->IsIsolating());
  FreeAll(frames, 0);
}

TEST_F(ArenaTest, FreeFramesOfOneBlockAreTakenLowestFirst) {
  const std::vector<FrameNumber> frames = AllocateMany(kPagesPerBlock * 2, 0);
  for (const uint64_t i : {3, 700, 5, 9}) arena_->FreeContiguous(FrameRange(FrameNumber(i), kOnePage));
  std::array<FrameNumber, 8> taken;
  const FrameRange block(BlockHead(0), kOneBlock);
  ASSERT_EQ(arena_->TakeFreeFrames(block, absl::MakeSpan(taken).first(2)), 2u);
  EXPECT_EQ(taken[0], FrameNumber(3));
  EXPECT_EQ(taken[1], FrameNumber(5));
  ASSERT_EQ(arena_->TakeFreeFrames(block, absl::MakeSpan(taken)), 1u);
  EXPECT_EQ(taken[0], FrameNumber(9));
  EXPECT_EQ(arena_->TakeFreeFrames(block, absl::MakeSpan(taken)), 0u);
  ExpectSound();
  for (const FrameNumber frame : frames) {
    if (frame != FrameNumber(700)) arena_->Free(frame, 0);
  }
}

}  // namespace
}  // namespace quire
