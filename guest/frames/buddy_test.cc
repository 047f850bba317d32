#include "guest/frames/buddy.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr FrameRange kEverywhere(FrameNumber(0), FrameTable::kMaxSize);

FrameRange Block(uint64_t n) { return FrameRange(FrameNumber(n * kPagesPerBlock), kOneBlock); }
FrameRange Frames(uint64_t begin, uint64_t end) { return FrameRange(FrameNumber(begin), FrameNumber(end)); }

class BuddyTest : public testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 8;

  void AddBlocks(uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) buddy_.AddBlock(Block(i));
  }
  void ExpectSound() { EXPECT_EQ(buddy_.Check(), absl::OkStatus()); }

  FrameTable table_ = FrameTable::Create(PageCount::OfBlocks(kBlocks)).value();
  BuddyAllocator buddy_{&table_};
};

TEST_F(BuddyTest, NothingIsFreeWhileAllBlocksAreAbsent) {
  EXPECT_EQ(buddy_.Allocate(0), std::nullopt);
  EXPECT_EQ(buddy_.RemoveFreeBlock(), std::nullopt);
  EXPECT_EQ(buddy_.free_pages(), PageCount(0));
  ExpectSound();
}

TEST_F(BuddyTest, ABlockGivesEachOfItsFramesOnce) {
  AddBlocks(1);
  std::set<FrameNumber> seen;
  for (uint64_t i = 0; i < kPagesPerBlock; ++i) seen.insert(buddy_.Allocate(0).value());
  EXPECT_EQ(seen.size(), kPagesPerBlock);
  EXPECT_EQ(*seen.rbegin(), FrameNumber(kPagesPerBlock - 1));
  EXPECT_EQ(buddy_.Allocate(0), std::nullopt);
  ExpectSound();
}

TEST_F(BuddyTest, RunsOfEveryOrderAreAlignedAndMergeAgainWhenFreed) {
  AddBlocks(2);
  for (int order = 0; order < BuddyAllocator::kOrders; ++order) {
    const FrameNumber frame = buddy_.Allocate(order).value();
    EXPECT_EQ(frame.value() % PageCount::OfOrder(order).in_pages(), 0u);
    EXPECT_EQ(buddy_.free_pages(), PageCount::OfBlocks(2) - PageCount::OfOrder(order));
    ExpectSound();
    buddy_.Free(frame, order);
    EXPECT_EQ(buddy_.free_runs(kBlockOrder), 2u);
  }
  ExpectSound();
}

TEST_F(BuddyTest, AWholeBlockIsBrokenOnlyWhenNothingSmallerFits) {
  AddBlocks(3);
  const FrameNumber first = buddy_.Allocate(0).value();
  for (uint64_t i = 1; i < kPagesPerBlock; ++i) {
    EXPECT_TRUE(Block(first.value() / kPagesPerBlock).contains(buddy_.Allocate(0).value()));
  }
  EXPECT_EQ(buddy_.free_runs(kBlockOrder), 2u);
}

TEST_F(BuddyTest, ALowFrameIsPreferredToAHigherOneFreedLater) {
  AddBlocks(1);
  std::vector<FrameNumber> frames;
  while (const auto frame = buddy_.Allocate(0)) frames.push_back(*frame);
  buddy_.Free(FrameNumber(10), 0);
  buddy_.Free(FrameNumber(20), 0);
  EXPECT_EQ(buddy_.Allocate(0), FrameNumber(10));
  EXPECT_EQ(buddy_.Allocate(0), FrameNumber(20));
}

TEST_F(BuddyTest, ARunMayBeFreedInPiecesAndPiecesAsOneRun) {
  AddBlocks(1);
  const FrameNumber run = buddy_.Allocate(kBlockOrder).value();
  for (uint64_t i = 0; i < 256; ++i) buddy_.Free(run + PageCount(i), 0);
  ExpectSound();
  buddy_.Free(run + PageCount(256), 8);
  EXPECT_EQ(buddy_.free_runs(kBlockOrder), 1u);
  for (uint64_t i = 0; i < kPagesPerBlock; ++i) buddy_.Allocate(0).value();
  buddy_.Free(run, kBlockOrder);
  EXPECT_EQ(buddy_.free_runs(kBlockOrder), 1u);
  ExpectSound();
}

TEST_F(BuddyTest, FreeingForgetsWhatTheOwnerWroteInTheDescriptors) {
  AddBlocks(1);
  const FrameNumber run = buddy_.Allocate(2).value();
  table_.Set(run, FrameDescriptor::Zone(2, 1234));
  table_.Set(run + PageCount(1), FrameDescriptor::Wired());
  table_.Set(run + PageCount(3), FrameDescriptor::Owned(GuestId{3}, Gfn(4)));
  buddy_.Free(run, 2);
  ExpectSound();
}

TEST_F(BuddyTest, FreeingTwiceStopsTheProgram) {
  AddBlocks(1);
  const FrameNumber head = buddy_.Allocate(3).value();
  buddy_.Free(head, 3);
  EXPECT_DEATH(buddy_.Free(head, 3), "broken invariant");
  EXPECT_DEATH(buddy_.Free(head + PageCount(5), 0), "broken invariant") << "inside a free run";
}

TEST_F(BuddyTest, FreeingARunThatIsPartlyFreeStopsTheProgram) {
  AddBlocks(1);
  const FrameNumber run = buddy_.Allocate(3).value();
  buddy_.Free(run + PageCount(4), 1);
  EXPECT_DEATH(buddy_.Free(run, 3), "broken invariant");
}

TEST_F(BuddyTest, FreeingAnAbsentFrameOrAMisalignedRunStopsTheProgram) {
  EXPECT_DEATH(buddy_.Free(FrameNumber(0), 0), "broken invariant");
  AddBlocks(1);
  buddy_.Allocate(kBlockOrder).value();
  EXPECT_DEATH(buddy_.Free(FrameNumber(2), 2), "broken invariant");
}

TEST_F(BuddyTest, OnlyAWhollyFreeBlockIsRemovedAndItCanComeBack) {
  AddBlocks(2);
  const FrameNumber frame = buddy_.Allocate(0).value();
  const FrameRange removed = buddy_.RemoveFreeBlock().value();
  EXPECT_FALSE(removed.contains(frame));
  EXPECT_TRUE(table_.Get(removed.begin() + PageCount(100)).is(FrameKind::kAbsent));
  EXPECT_EQ(buddy_.RemoveFreeBlock(), std::nullopt);
  EXPECT_EQ(buddy_.live_pages(), kOneBlock);
  ExpectSound();
  buddy_.AddBlock(removed);
  buddy_.Free(frame, 0);
  EXPECT_EQ(buddy_.free_runs(kBlockOrder), 2u);
  ExpectSound();
}

TEST_F(BuddyTest, ContiguousFramesSpanFreeBlocksAndTheirTailsStayFree) {
  AddBlocks(4);
  const FrameRange range = buddy_.AllocateContiguous({.count = PageCount(1300), .within = kEverywhere}).value();
  EXPECT_EQ(range, Frames(0, 1300));
  EXPECT_EQ(buddy_.free_pages(), PageCount(2048 - 1300));
  ExpectSound();
  buddy_.FreeContiguous(range);
  EXPECT_EQ(buddy_.free_runs(kBlockOrder), 4u);
  ExpectSound();
}

TEST_F(BuddyTest, ContiguousFramesMayBeginAndEndInsidePartlyUsedBlocks) {
  AddBlocks(3);
  ASSERT_EQ(buddy_.AllocateContiguous({.count = PageCount(100), .within = kEverywhere}), Frames(0, 100));
  ASSERT_EQ(buddy_.AllocateContiguous({.count = PageCount(1), .within = Frames(1400, 1401)}), Frames(1400, 1401));
  EXPECT_EQ(buddy_.AllocateContiguous({.count = PageCount(1301), .within = kEverywhere}), std::nullopt);
  EXPECT_EQ(buddy_.AllocateContiguous({.count = PageCount(1300), .within = kEverywhere}), Frames(100, 1400));
  ExpectSound();
}

TEST_F(BuddyTest, ContiguousFramesStayWithinTheirRange) {
  AddBlocks(2);
  EXPECT_EQ(buddy_.AllocateContiguous({.count = PageCount(10), .within = Frames(300, 309)}), std::nullopt);
  EXPECT_EQ(buddy_.AllocateContiguous({.count = PageCount(10), .within = Frames(300, 310)}), Frames(300, 310));
  EXPECT_EQ(buddy_.AllocateContiguous({.count = PageCount(1), .within = Frames(310, 310)}), std::nullopt);
  EXPECT_EQ(buddy_.AllocateContiguous({.count = PageCount(1), .within = Frames(5000, 9000)}), std::nullopt);
  ExpectSound();
}

TEST_F(BuddyTest, ContiguousFramesRespectAlignment) {
  AddBlocks(2);
  const ContiguousRequest request = {
      .count = PageCount(3), .within = Frames(1, kPagesPerBlock), .alignment = PageCount(64)};
  EXPECT_EQ(buddy_.AllocateContiguous(request), Frames(64, 67));
  EXPECT_EQ(buddy_.AllocateContiguous(request), Frames(128, 131));
  ExpectSound();
}

TEST_F(BuddyTest, ContiguousFramesCrossNoBoundaryButMayTouchIt) {
  AddBlocks(2);
  const ContiguousRequest request = {
      .count = PageCount(20), .within = Frames(50, kPagesPerBlock), .boundary = PageCount(64)};
  EXPECT_EQ(buddy_.AllocateContiguous(request), Frames(64, 84));
  EXPECT_EQ(buddy_.AllocateContiguous(request), Frames(84, 104));
  EXPECT_EQ(buddy_.AllocateContiguous(request), Frames(104, 124));
  EXPECT_EQ(buddy_.AllocateContiguous(request), Frames(128, 148));
  ExpectSound();
}

TEST_F(BuddyTest, AbsentBlocksInterruptContiguousFramesUnlessTheyCount) {
  buddy_.AddBlock(Block(0));
  buddy_.AddBlock(Block(2));
  const ContiguousRequest request = {.count = PageCount(513), .within = kEverywhere};
  EXPECT_EQ(buddy_.FindContiguous(request, AbsentBlocks::kSkip), std::nullopt);
  EXPECT_EQ(buddy_.FindContiguous(request, AbsentBlocks::kCountAsFree), Frames(0, 513));
  const ContiguousRequest all = {.count = PageCount::OfBlocks(kBlocks), .within = kEverywhere};
  EXPECT_EQ(buddy_.FindContiguous(all, AbsentBlocks::kCountAsFree), table_.range());
}

TEST(ContiguousRequestTest, WhatCannotBeSatisfiedIsInvalid) {
  EXPECT_EQ((ContiguousRequest{.count = PageCount(5), .within = kEverywhere}).Validate(), absl::OkStatus());
  for (const ContiguousRequest& request : {
           ContiguousRequest{.count = PageCount(0), .within = kEverywhere},
           ContiguousRequest{.count = PageCount(uint64_t{1} << 60), .within = kEverywhere},
           ContiguousRequest{.count = PageCount(1), .within = kEverywhere, .alignment = PageCount(0)},
           ContiguousRequest{.count = PageCount(1), .within = kEverywhere, .alignment = PageCount(3)},
           ContiguousRequest{.count = PageCount(1), .within = kEverywhere, .boundary = PageCount(6)},
           ContiguousRequest{.count = PageCount(9), .within = kEverywhere, .boundary = PageCount(8)},
       }) {
    EXPECT_EQ(request.Validate().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Check() has to find what the tests above rely on it to find.
TEST_F(BuddyTest, CheckNoticesADamagedDescriptor) {
  AddBlocks(2);
  const FrameNumber used = buddy_.Allocate(0).value();
  ExpectSound();
  const auto damage = [this](FrameNumber frame, FrameDescriptor d) {
    const FrameDescriptor before = table_.Get(frame);
    table_.Set(frame, d);
    EXPECT_EQ(buddy_.Check().code(), absl::StatusCode::kInternal) << frame << " made " << d;
    table_.Set(frame, before);
    ExpectSound();
  };
  const FrameNumber none = FrameDescriptor::kNoFrame;
  damage(used, FrameDescriptor::Absent());
  damage(used, FrameDescriptor::Free(0, none, none));
  damage(used, FrameDescriptor::FromBits(0xf));
  damage(used + PageCount(1), FrameDescriptor::Busy());                     // the head of a free run is gone
  damage(used + PageCount(2), FrameDescriptor::Free(0, none, none));        // wrong order
  damage(used + PageCount(4), FrameDescriptor::Free(2, used, none));        // wrong link back
  damage(used + PageCount(4), FrameDescriptor::Free(2, none, used));        // wrong link forward
  damage(used + PageCount(5), FrameDescriptor::Owned(GuestId{1}, Gfn(1)));  // somebody's page inside a free run
}

// The whole truth about every frame, kept naively.
class Model {
 public:
  enum State : uint8_t { kAbsent, kFree, kUsed };

  explicit Model(PageCount size) : state_(size.in_pages(), kAbsent) {}

  void Set(FrameRange range, State from, State to) {
    for (FrameNumber f = range.begin(); f < range.end(); ++f) {
      ASSERT_EQ(state_[f.value()], from) << f;
      state_[f.value()] = to;
    }
  }
  bool All(FrameRange range, State state) const {
    for (FrameNumber f = range.begin(); f < range.end(); ++f) {
      if (state_[f.value()] != state) return false;
    }
    return true;
  }
  uint64_t size() const { return state_.size(); }

  // How many free runs of each order there are when all that can be merged is.
  std::vector<uint64_t> FreeRuns() const {
    std::vector<uint64_t> runs(BuddyAllocator::kOrders);
    for (uint64_t f = 0; f < size();) {
      int order = f == 0 ? kBlockOrder : std::min<int>(std::countr_zero(f), kBlockOrder);
      while (order >= 0 && !All(FrameRange(FrameNumber(f), PageCount::OfOrder(order)), kFree)) --order;
      if (order >= 0) ++runs[order];
      f += order >= 0 ? uint64_t{1} << order : 1;
    }
    return runs;
  }

  std::optional<FrameRange> LowestFit(const ContiguousRequest& r) const {
    const uint64_t count = r.count.in_pages();
    for (uint64_t f = r.within.begin().value(); f + count <= std::min(r.within.end().value(), size()); ++f) {
      const bool aligned = f % r.alignment.in_pages() == 0;
      const uint64_t boundary = r.boundary.in_pages();
      const bool crosses = boundary != 0 && f / boundary != (f + count - 1) / boundary;
      const FrameRange range(FrameNumber(f), r.count);
      if (aligned && !crosses && All(range, kFree)) return range;
    }
    return std::nullopt;
  }

 private:
  std::vector<State> state_;
};

// Random operations, each checked against the model.
class BuddyModelTest : public BuddyTest {
 protected:
  uint64_t Random(uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random_); }

  void AddSomeBlock() {
    const FrameRange block = Block(Random(kBlocks));
    if (!model_.All(block, Model::kAbsent)) return;
    buddy_.AddBlock(block);
    model_.Set(block, Model::kAbsent, Model::kFree);
  }

  void RemoveSomeBlock() {
    const bool possible = buddy_.free_runs(kBlockOrder) > 0;
    const auto block = buddy_.RemoveFreeBlock();
    ASSERT_EQ(block.has_value(), possible);
    if (block) model_.Set(*block, Model::kFree, Model::kAbsent);
  }

  void AllocateRun() {
    const int order = static_cast<int>(std::min(Random(BuddyAllocator::kOrders), Random(BuddyAllocator::kOrders)));
    const auto frame = buddy_.Allocate(order);
    if (!frame) {
      const auto runs = model_.FreeRuns();
      ASSERT_TRUE(std::all_of(runs.begin() + order, runs.end(), [](uint64_t n) { return n == 0; }));
      return;
    }
    Own(FrameRange(*frame, PageCount::OfOrder(order)));
  }

  void AllocateContiguous() {
    const ContiguousRequest request = RandomRequest();
    const auto expected = model_.LowestFit(request);
    ASSERT_EQ(buddy_.AllocateContiguous(request), expected);
    if (expected) Own(*expected);
  }

  ContiguousRequest RandomRequest() {
    const uint64_t begin = Random(model_.size());
    ContiguousRequest request = {.count = PageCount(1 + Random(uint64_t{1} << Random(12))),
                                 .within = Frames(begin, begin + 1 + Random(model_.size())),
                                 .alignment = PageCount(uint64_t{1} << (Random(2) * Random(11)))};
    if (Random(2) == 0) request.boundary = PageCount(std::bit_ceil(request.count.in_pages()) << Random(3));
    return request;
  }

  void FreeSomething() {
    if (owned_.empty()) return;
    const uint64_t i = Random(owned_.size());
    FrameRange range = owned_[i];
    owned_[i] = owned_.back();
    owned_.pop_back();
    if (Random(4) == 0) {  // only a part
      const FrameNumber middle = range.begin() + PageCount(Random(range.size().in_pages()));
      if (middle > range.begin()) owned_.push_back(FrameRange(range.begin(), middle));
      range = FrameRange(middle, range.end());
    }
    buddy_.FreeContiguous(range);
    model_.Set(range, Model::kUsed, Model::kFree);
  }

  void Own(FrameRange range) {
    model_.Set(range, Model::kFree, Model::kUsed);
    if (Random(2) == 0) table_.Fill(range, FrameDescriptor::Owned(GuestId{7}, Gfn(Random(1000))));
    owned_.push_back(range);
  }

  void ExpectCountsOfModel() {
    const std::vector<uint64_t> runs = model_.FreeRuns();
    for (int order = 0; order < BuddyAllocator::kOrders; ++order) {
      ASSERT_EQ(buddy_.free_runs(order), runs[order]) << "order " << order;
    }
    ASSERT_EQ(buddy_.Check(), absl::OkStatus());
  }

  Model model_{table_.size()};
  std::vector<FrameRange> owned_;
  std::mt19937_64 random_{20240229};
};

TEST_F(BuddyModelTest, RandomOperationsAgreeWithTheModel) {
  for (int i = 0; i < 100'000; ++i) {
    SCOPED_TRACE(i);
    switch (const uint64_t op = Random(20); op) {
      case 0:
        AddSomeBlock();
        break;
      case 1:
        RemoveSomeBlock();
        break;
      case 2:
      case 3:
      case 4:
        AllocateContiguous();
        break;
      default:
        (op < 12) ? AllocateRun() : FreeSomething();
    }
    if (i % 100 == 0) ExpectCountsOfModel();
    if (HasFatalFailure()) return;
  }
  while (!owned_.empty()) FreeSomething();
  ExpectCountsOfModel();
  EXPECT_EQ(buddy_.free_pages(), buddy_.live_pages());
}

TEST_F(BuddyTest, AllThatIsFreeInARangeIsTakenPieceByPiece) {
  AddBlocks(2);
  buddy_.TakeFree(Frames(100, 200));
  std::vector<FrameRange> pieces;
  buddy_.TakeAllFree(Frames(90, 600), [&](FrameRange piece) { pieces.push_back(piece); });
  PageCount taken;
  for (const FrameRange& piece : pieces) {
    EXPECT_FALSE(piece.overlaps(Frames(100, 200)));
    EXPECT_TRUE(Frames(90, 600).contains(piece));
    taken += piece.size();
  }
  EXPECT_EQ(taken, PageCount(600 - 90 - 100));
  EXPECT_EQ(buddy_.free_pages(), PageCount::OfBlocks(2) - PageCount(600 - 90));
  ExpectSound();
  buddy_.TakeAllFree(Frames(90, 600), [&](FrameRange) { ADD_FAILURE() << "there is nothing left"; });
}

}  // namespace
}  // namespace quire
