#include "guest/frames/compaction.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "guest/frames/fake_block_source.h"

namespace quire {
namespace {

constexpr uint64_t kBlocks = 16;

// Owners of frames, of which each knows what its frame holds.
class Owners final : public FrameMigrator {
 public:
  void Migrate(absl::Span<Move> moves, WholeBlocks) override {
    batches += !moves.empty();
    EXPECT_TRUE(std::is_sorted(moves.begin(), moves.end(),
                               [](const Move& a, const Move& b) { return a.owner.bits() < b.owner.bits(); }));
    for (Move& move : moves) move.answer = MovePage(move);
  }
  Answer Evict(FrameNumber frame, FrameDescriptor owner) override {
    if (busy.contains(frame)) return Answer::kBusy;
    if (stuck.contains(frame)) return Answer::kCannot;
    EXPECT_EQ(arena->frames().Get(frame), owner);
    evicted.insert(contents[frame.value()]);
    arena->Free(frame, 0);
    return Answer::kMoved;
  }

  Arena* arena = nullptr;
  std::vector<uint64_t> contents = std::vector<uint64_t>(kBlocks * kPagesPerBlock);
  std::set<FrameNumber> busy, stuck;
  std::function<void(FrameNumber)> hook;
  uint64_t moves = 0, batches = 0;
  std::multiset<uint64_t> evicted;  // their contents

 private:
  Answer MovePage(const Move& move) {
    if (hook) hook(move.from);
    if (busy.contains(move.from)) return Answer::kBusy;
    if (stuck.contains(move.from)) return Answer::kCannot;
    EXPECT_EQ(arena->frames().Get(move.from), move.owner);
    EXPECT_TRUE(arena->frames().Get(move.to).is(FrameKind::kBusy));
    contents[move.to.value()] = contents[move.from.value()];
    arena->frames().Set(move.to, move.owner);
    arena->Free(move.from, 0);
    ++moves;
    return Answer::kMoved;
  }
};

class CompactionTest : public ::testing::Test {
 protected:
  CompactionTest() { owners_.arena = arena_.get(); }
  void TearDown() override {
    EXPECT_EQ(arena_->Check(), absl::OkStatus());
    EXPECT_FALSE(arena_->IsIsolating());
    // Each page that was written is still there, once.
    std::multiset<uint64_t> found = owners_.evicted;
    ForEachFrame([&](FrameNumber frame) {
      if (!IsMovable(frame)) return;
      found.insert(owners_.contents[frame.value()]);
      EXPECT_EQ(arena_->frames().Get(frame).gfn(), Gfn(owners_.contents[frame.value()]));
      arena_->Free(frame, 0);
    });
    EXPECT_EQ(found, written_);
    for (const FrameRange& range : wired_) arena_->FreeContiguous(range);
  }

  bool IsMovable(FrameNumber frame) { return arena_->frames().Get(frame).is(FrameKind::kOwned); }
  void ForEachFrame(std::function<void(FrameNumber)> visit) {
    for (FrameNumber frame; frame < arena_->range().end(); ++frame) visit(frame);
  }
  static FrameRange BlockAt(uint64_t block) { return {FrameNumber(block * kPagesPerBlock), kOneBlock}; }

  // Takes all frames, and gives an owner to those that `keep` says; the rest is free again.
  void Populate(std::function<bool(FrameNumber)> keep) {
    std::vector<FrameNumber> frames;
    for (absl::StatusOr<FrameNumber> f = arena_->Allocate(0, Reserve::kNormal); f.ok();
         f = arena_->Allocate(0, Reserve::kNormal)) {
      frames.push_back(*f);
    }
    for (const FrameNumber frame : frames) {
      if (keep(frame)) {
        Own(frame);
      } else {
        arena_->Free(frame, 0);
      }
    }
    arena_->DrainCpuLists();
  }
  void Own(FrameNumber frame) {
    owners_.contents[frame.value()] = ++next_;
    arena_->frames().Set(frame, FrameDescriptor::Owned(GuestId{1}, Gfn(next_)));
    written_.insert(next_);
  }
  void WireFirstOf(uint64_t block) {
    const FrameRange range =
        *arena_->AllocateContiguous({.count = kOnePage, .within = BlockAt(block)}, Reserve::kNormal);
    arena_->frames().Fill(range, FrameDescriptor::Wired());
    wired_.push_back(range);
  }
  uint64_t FreeBlocks() { return arena_->counts().free_in_whole_blocks.in_pages() / kPagesPerBlock; }
  PageCount UsedIn(uint64_t block) {
    uint64_t used = 0;
    ForEachFrame([&](FrameNumber frame) { used += BlockAt(block).contains(frame) && IsMovable(frame); });
    return PageCount(used);
  }

  FakeBlockSource source_{kBlocks};
  std::unique_ptr<Arena> arena_ =
      *Arena::Create(PageCount::OfBlocks(kBlocks), &source_, {.free_block_limit = kBlocks, .cpu_lists = 2});
  Owners owners_;
  Compaction compaction_{arena_.get(), &owners_};
  std::multiset<uint64_t> written_;
  std::vector<FrameRange> wired_;
  uint64_t next_ = 0;
};

// Block b holds b * 32 pages.
bool Staircase(FrameNumber frame) {
  const uint64_t block = frame.value() / kPagesPerBlock, index = frame.value() % kPagesPerBlock;
  return index % 16 * 32 + index / 16 < block * 32;
}

TEST_F(CompactionTest, TheSparsestBlocksAreEmptiedFirstIntoTheFullest) {
  Populate(Staircase);
  ASSERT_EQ(UsedIn(3), PageCount(96));
  ASSERT_EQ(FreeBlocks(), 1u);
  EXPECT_EQ(compaction_.MakeFreeBlocks(3), 3u);
  EXPECT_EQ(FreeBlocks(), 4u);
  for (const uint64_t emptied : {0, 1, 2, 3}) EXPECT_EQ(UsedIn(emptied), PageCount());
  EXPECT_EQ(UsedIn(15), kOneBlock);
  EXPECT_EQ(owners_.moves, 32u + 64 + 96);
  EXPECT_EQ(owners_.batches, 1u + 2 + 3);
  EXPECT_EQ(compaction_.counters().migrated_pages.value(), owners_.moves);
  EXPECT_EQ(compaction_.counters().blocks.value(), 3u);
}

TEST_F(CompactionTest, OfBlocksAlikeTheHighestIsEmptied) {
  Populate([](FrameNumber frame) { return frame.value() % 4 == 0; });
  EXPECT_EQ(compaction_.MakeFreeBlocks(2), 2u);
  EXPECT_EQ(UsedIn(15), PageCount());
  EXPECT_EQ(UsedIn(14), PageCount());
  EXPECT_GT(UsedIn(0), PageCount(128));
}

TEST_F(CompactionTest, APassEndsWhereTheScannersMeet) {
  std::mt19937 random(1);
  Populate([&](FrameNumber) { return random() % 10 < 6; });
  const uint64_t possible = arena_->counts().free.in_pages() / kPagesPerBlock;
  const uint64_t gained = compaction_.MakeFreeBlocks(kBlocks);
  EXPECT_EQ(gained, possible);
  EXPECT_EQ(compaction_.MakeFreeBlocks(kBlocks), 0u);
  EXPECT_EQ(compaction_.counters().refused_no_room.value(), 0u);
}

TEST_F(CompactionTest, BlocksWithWiredFramesAreFilledAndNeverEmptied) {
  Populate([](FrameNumber frame) { return frame.value() % 4 == 0; });
  for (const uint64_t block : {2, 9, 15}) WireFirstOf(block);
  EXPECT_GT(compaction_.MakeFreeBlocks(kBlocks), 10u);
  for (const uint64_t block : {2, 9, 15}) EXPECT_GE(UsedIn(block), PageCount(128)) << block;
  EXPECT_EQ(compaction_.counters().refused_cannot.value(), 0u);
}

TEST_F(CompactionTest, ABusyPageIsTriedAgainAndThenItsBlockIsLeft) {
  Populate(Staircase);
  const FrameNumber first = BlockAt(1).begin();
  ASSERT_TRUE(IsMovable(first));
  int asked = 0;
  owners_.busy.insert(first);
  owners_.hook = [&](FrameNumber frame) { asked += frame == first; };
  EXPECT_EQ(compaction_.MakeFreeBlocks(1), 1u);
  EXPECT_EQ(asked, 3);
  EXPECT_EQ(UsedIn(1), kOnePage) << "nothing else can stay";
  EXPECT_EQ(UsedIn(2), PageCount()) << "the next one was gained in its place";
  EXPECT_EQ(compaction_.counters().refused_busy.value(), 1u);

  owners_.busy.clear();
  EXPECT_EQ(compaction_.MakeFreeBlocks(1), 1u);
  EXPECT_EQ(UsedIn(1), PageCount());
}

TEST_F(CompactionTest, APageThatCannotBeMovedEndsItsBlocksTurnWithItsBatch) {
  Populate(Staircase);
  owners_.stuck.insert(BlockAt(1).begin());
  EXPECT_EQ(compaction_.MakeFreeBlocks(1), 1u);
  EXPECT_EQ(UsedIn(1), kOnePage);
  EXPECT_EQ(compaction_.counters().refused_cannot.value(), 1u);
}

TEST_F(CompactionTest, GivesUpAfterSoManyFailures) {
  Populate(Staircase);
  ForEachFrame([&](FrameNumber frame) { owners_.stuck.insert(frame); });
  EXPECT_EQ(compaction_.MakeFreeBlocks(1), 0u);
  EXPECT_EQ(compaction_.counters().refused_cannot.value(), Compaction::kFailures);
}

TEST_F(CompactionTest, WhatFallsFreeMeanwhileIsNotTakenAgain) {
  Populate([](FrameNumber frame) { return frame.value() % 2 == 0; });
  // Others allocate and free all the time.
  std::vector<FrameNumber> theirs;
  owners_.hook = [&](FrameNumber) {
    theirs.push_back(*arena_->Allocate(0, Reserve::kNormal));
    EXPECT_FALSE(BlockAt(15).contains(theirs.back()));
    if (theirs.size() % 2 == 0) {
      arena_->Free(theirs.back(), 0);
      theirs.pop_back();
    }
  };
  EXPECT_EQ(compaction_.MakeFreeBlocks(1), 1u);
  EXPECT_EQ(UsedIn(15), PageCount());
  for (const FrameNumber frame : theirs) arena_->Free(frame, 0);
}

TEST_F(CompactionTest, AnAllocationThatFindsNothingElseEndsIsolation) {
  Populate([](FrameNumber frame) { return frame.value() % 8 != 0; });
  std::vector<FrameNumber> theirs;
  uint64_t moves_before_the_end = 0;
  owners_.hook = [&](FrameNumber) {
    if (!theirs.empty()) return;
    const PageCount free = arena_->counts().free;
    moves_before_the_end = owners_.moves;
    // All that counts as free can be had, but for what the free scanner has in hand.
    while (PageCount(theirs.size()) < free) theirs.push_back(*arena_->Allocate(0, Reserve::kNormal));
  };
  EXPECT_EQ(compaction_.MakeFreeBlocks(1), 0u);
  EXPECT_GT(compaction_.counters().refused_wanted.value(), 0u);
  EXPECT_LE(owners_.moves, moves_before_the_end + 32) << "the batch that was under way";
  for (const FrameNumber frame : theirs) arena_->Free(frame, 0);
}

TEST_F(CompactionTest, ALockedPageNeverCostsAFrame) {
  std::mt19937 random(2);
  Populate([&](FrameNumber) { return random() % 2 == 0; });
  const PageCount free = arena_->counts().free;
  for (int i = 0; i < 200; ++i) {
    owners_.busy.clear();
    for (int j = 0; j < 50; ++j) owners_.busy.insert(FrameNumber(random() % owners_.contents.size()));
    compaction_.MakeFreeBlocks(1 + random() % 4);
    arena_->DrainCpuLists();
    ASSERT_EQ(arena_->counts().free, free);
  }
}

TEST_F(CompactionTest, RandomChurnIsServedAsWholeBlocks) {
  std::mt19937 random(3);
  for (const uint32_t percent : {20, 50, 80}) {
    Populate([&](FrameNumber frame) { return IsMovable(frame) || random() % 100 < percent / 2; });
    const ArenaCounts before = arena_->counts();
    const uint64_t gained = compaction_.MakeFreeBlocks(kBlocks);
    const ArenaCounts after = arena_->counts();
    EXPECT_EQ(after.free, before.free);
    EXPECT_GE(after.free_in_whole_blocks.in_pages() * 10 + 9 * kPagesPerBlock, after.free.in_pages() * 9);
    EXPECT_GE(gained, 1u);
  }
}

// --- Contiguous ranges.

TEST_F(CompactionTest, AContiguousRangeIsMadeWhereTheFewestPagesMustMove) {
  Populate(Staircase);
  const auto range = compaction_.AllocateContiguous(
      {.count = PageCount(700), .within = FrameRange(FrameNumber(3 * kPagesPerBlock), arena_->range().end())},
      Reserve::kNormal);
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(range->size(), PageCount(700));
  EXPECT_GE(range->begin(), BlockAt(3).begin());
  EXPECT_LE(range->end(), BlockAt(5).begin()) << "blocks 3 and 4 have the fewest pages";
  EXPECT_LE(owners_.moves, 96u + 128);
  for (FrameNumber f = range->begin(); f < range->end(); ++f) ASSERT_TRUE(arena_->frames().Get(f).is(FrameKind::kBusy));
  EXPECT_EQ(compaction_.counters().ranges.value(), 1u);
  arena_->FreeContiguous(*range);
}

TEST_F(CompactionTest, AContiguousRangeIsAsAsked) {
  std::mt19937 random(4);
  Populate([&](FrameNumber) { return random() % 2 == 0; });
  for (const uint64_t block : {1, 6, 11}) WireFirstOf(block);
  for (int i = 0; i < 50; ++i) {
    const PageCount boundary = PageCount::OfOrder(static_cast<int>(8 + random() % 4));
    const ContiguousRequest request = {.count = PageCount(1 + random() % 256),
                                       .within = FrameRange(FrameNumber(random() % 2000), arena_->range().end()),
                                       .alignment = PageCount::OfOrder(static_cast<int>(random() % 9)),
                                       .boundary = boundary};
    const auto range = compaction_.AllocateContiguous(request, Reserve::kNormal);
    ASSERT_TRUE(range.ok()) << range.status();
    EXPECT_EQ(range->size(), request.count);
    EXPECT_TRUE(request.within.contains(*range));
    EXPECT_EQ(range->begin().value() % request.alignment.in_pages(), 0u);
    EXPECT_EQ(range->begin().value() / boundary.in_pages(), (range->end().value() - 1) / boundary.in_pages());
    arena_->FreeContiguous(*range);
    ASSERT_EQ(arena_->Check(), absl::OkStatus());
  }
}

TEST_F(CompactionTest, APlaceWithAPageThatCannotBeMovedIsLeftForTheNext) {
  Populate([](FrameNumber frame) { return frame.value() % 64 == 1; });
  owners_.stuck.insert(FrameNumber(64 * 4 + 1));
  const ContiguousRequest request = {.count = PageCount(512), .within = FrameRange(FrameNumber(0), PageCount(1024))};
  const auto range = compaction_.AllocateContiguous(request, Reserve::kNormal);
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_FALSE(range->contains(FrameNumber(64 * 4 + 1)));
  arena_->FreeContiguous(*range);
}

TEST_F(CompactionTest, ARangeThatIsInTheWayForGoodIsAnError) {
  Populate([](FrameNumber frame) { return frame.value() % 64 == 1; });
  for (uint64_t block = 0; block < kBlocks; ++block) WireFirstOf(block);
  const PageCount free = arena_->counts().free;
  const auto range =
      compaction_.AllocateContiguous({.count = PageCount(600), .within = arena_->range()}, Reserve::kNormal);
  EXPECT_TRUE(absl::IsUnavailable(range.status()));
  EXPECT_EQ(arena_->counts().free, free);
  EXPECT_EQ(owners_.moves, 0u);
  EXPECT_TRUE(absl::IsInvalidArgument(
      compaction_.AllocateContiguous({.count = PageCount(), .within = arena_->range()}, Reserve::kNormal).status()));
}

TEST_F(CompactionTest, WhatHasNowhereToGoOutOfARangeIsEvicted) {
  Populate([](FrameNumber) { return true; });
  const ContiguousRequest request = {.count = PageCount(100), .within = BlockAt(3)};
  const auto range = compaction_.AllocateContiguous(request, Reserve::kNormal);
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(owners_.evicted.size(), 100u) << "just the range";
  EXPECT_EQ(compaction_.counters().evicted_pages.value(), 100u);
  EXPECT_EQ(owners_.moves, 0u);
  arena_->FreeContiguous(*range);
}

TEST_F(CompactionTest, NothingIsEvictedToMakeABlock) {
  Populate([](FrameNumber frame) { return frame.value() % 16 != 0; });
  compaction_.MakeFreeBlocks(kBlocks);
  EXPECT_TRUE(owners_.evicted.empty());
}

TEST_F(CompactionTest, AbsentBlocksArePartOfARangeIfNeedBe) {
  source_.set_limit(4);
  Populate([](FrameNumber frame) { return frame.value() % 8 == 1; });
  ASSERT_EQ(arena_->counts().live, PageCount::OfBlocks(4));
  source_.set_limit(6);
  const ContiguousRequest request = {.count = PageCount::OfBlocks(2),
                                     .within = FrameRange(BlockAt(3).begin(), BlockAt(4).end())};
  const auto range = compaction_.AllocateContiguous(request, Reserve::kNormal);
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(*range, request.within);
  arena_->FreeContiguous(*range);
}

TEST_F(CompactionTest, ABlockThatTheSourceRefusesCostsNothing) {
  source_.set_limit(4);
  Populate([](FrameNumber frame) { return frame.value() % 8 == 1; });
  const PageCount free = arena_->counts().free;
  const ContiguousRequest request = {.count = PageCount::OfBlocks(2),
                                     .within = FrameRange(BlockAt(3).begin(), BlockAt(4).end())};
  EXPECT_TRUE(absl::IsUnavailable(compaction_.AllocateContiguous(request, Reserve::kNormal).status()));
  arena_->DrainCpuLists();
  EXPECT_EQ(arena_->counts().free, free);
}

// --- With others at work.

TEST_F(CompactionTest, OthersAllocateAndFreeAllTheTime) {
  std::mt19937 random(5);
  Populate([&](FrameNumber) { return random() % 3 == 0; });
  std::atomic<bool> done = false;
  std::vector<std::thread> others;
  for (uint32_t t = 0; t < 2; ++t) {
    others.emplace_back([&, t] {
      std::mt19937 choice(t);
      std::vector<FrameNumber> mine;
      while (!done) {
        if (mine.size() < 500 && choice() % 2 == 0) {
          const absl::StatusOr<FrameNumber> frame = arena_->Allocate(0, Reserve::kNormal);
          ASSERT_TRUE(frame.ok()) << frame.status();
          mine.push_back(*frame);
        } else if (!mine.empty()) {
          std::swap(mine[choice() % mine.size()], mine.back());
          arena_->Free(mine.back(), 0);
          mine.pop_back();
        }
      }
      for (const FrameNumber frame : mine) arena_->Free(frame, 0);
    });
  }
  uint64_t gained = 0;
  for (int i = 0; i < 100; ++i) {
    gained += compaction_.MakeFreeBlocks(2);
    const auto range =
        compaction_.AllocateContiguous({.count = PageCount(600), .within = arena_->range()}, Reserve::kNormal);
    if (range.ok()) arena_->FreeContiguous(*range);
  }
  done = true;
  for (std::thread& other : others) other.join();
  EXPECT_GT(gained, 0u);
}

}  // namespace
}  // namespace quire
