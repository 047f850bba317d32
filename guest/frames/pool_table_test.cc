#include "guest/frames/pool_table.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool.h"
#include "guest/frames/reserve.h"

namespace quire {
namespace {

constexpr PageCount kLimit = PageCount::OfBlocks(8);

struct Record {
  uint32_t numbers[5] = {1, 2, 3, 4, 5};  // may lie across two pages
};

class PoolTableTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    pool_ = Pool::Create({.limit = kLimit, .reservations = PageCount::OfBlocks(8), .use_memfd = GetParam()}).value();
  }
  void TearDown() override {
    EXPECT_EQ(pool_->Check(), absl::OkStatus());
    EXPECT_EQ(pool_->file().PopulatedPages(), pool_->budget().charged());
  }
  // Leaves no frame of the arena, not even for reclaim.
  std::vector<FrameNumber> TakeArena() {
    std::vector<FrameNumber> frames;
    for (;;) {
      const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
      if (!frame.ok()) return frames;
      frames.push_back(*frame);
    }
  }

  std::unique_ptr<Pool> pool_;
};

TEST_P(PoolTableTest, AnEmptyTableCostsNothing) {
  const PoolTable<Record> table(*pool_, 1'000'000);
  EXPECT_EQ(table.capacity(), 0u);
  EXPECT_EQ(pool_->budget().charged(), PageCount());
  EXPECT_EQ(pool_->file().PopulatedPages(), PageCount());
}

TEST_P(PoolTableTest, WhatItGrowsByIsChargedAndGoesWithTheTable) {
  {
    PoolTable<Record> table(*pool_, 100'000);
    ASSERT_TRUE(table.Grow(100));
    const Record* const first = &table[0];
    EXPECT_EQ(table.frames(), PageCount(1));
    for (uint32_t capacity = 100; capacity < 50'000; capacity += 700) {
      ASSERT_EQ(table.capacity(), capacity);
      for (uint32_t i : {capacity - 100, capacity - 1}) {
        EXPECT_EQ(table[i].numbers[4], 5u);
        table[i].numbers[0] = i;
      }
      ASSERT_TRUE(table.Grow(700));
      EXPECT_EQ(table.frames(), PageCount::Ceil(ByteCount::Bytes(table.capacity() * sizeof(Record))));
      EXPECT_EQ(pool_->budget().charged(), table.frames());
      EXPECT_EQ(pool_->file().PopulatedPages(), table.frames());
      ASSERT_EQ(pool_->Check(), absl::OkStatus());
    }
    EXPECT_EQ(&table[0], first);
    for (uint32_t capacity = 100; capacity < 50'000; capacity += 700) {
      EXPECT_EQ(table[capacity - 1].numbers[0], capacity - 1);
    }
  }
  EXPECT_EQ(pool_->budget().charged(), PageCount());
  EXPECT_EQ(pool_->file().PopulatedPages(), PageCount());
}

TEST_P(PoolTableTest, TablesHavePlacesOfTheirOwnThatAreUsedAgain) {
  auto a = std::make_unique<PoolTable<Record>>(*pool_, 100'000);
  PoolTable<Record> b(*pool_, 50'000);
  for (int round = 0; round < 50; ++round) {
    ASSERT_TRUE(a->Grow(1'000));
    if (b.capacity() < 40'000) {
      ASSERT_TRUE(b.Grow(1'000));
    }
    b[b.capacity() - 1].numbers[0] = 77;
    EXPECT_EQ((*a)[999].numbers[0], 1u) << "a page that is used again is zeros";
    a.reset();
    a = std::make_unique<PoolTable<Record>>(*pool_, 100'000);
  }
  EXPECT_EQ(b[b.capacity() - 1].numbers[0], 77u);
}

TEST_P(PoolTableTest, ItDoesNotGrowBeyondWhatItWasMadeFor) {
  PoolTable<Record> table(*pool_, 1'000);
  EXPECT_TRUE(table.Grow(1'000));
  EXPECT_FALSE(table.Grow(1'000));
  EXPECT_EQ(table.capacity(), 1'000u);
  EXPECT_FALSE(table.Grow(UINT32_MAX));
}

TEST_P(PoolTableTest, OthersLeaveATableSomeMemoryAndWithoutAnyItFailsCleanly) {
  PoolTable<Record> table(*pool_, 1'000'000);
  const std::vector<FrameNumber> frames = TakeArena();
  EXPECT_EQ(frames.size(), (kLimit - kOneBlock).in_pages()) << "less than a block is left to tables";
  EXPECT_EQ(pool_->FreeFrames(), PageCount());
  EXPECT_EQ(pool_->FreePages(), PageCount());
  const FrameRange reservation = pool_->AddReservation(PageCount::OfBlocks(8)).value();
  // A reservation may take what lies above the reserve of reclaim, which scattered frames do not stand for here.
  EXPECT_TRUE(absl::IsUnavailable(pool_->PopulateReserved(FrameRange(reservation.begin(), kOnePage))));
  const PageCount left = pool_->budget().limit() - pool_->budget().charged();
  EXPECT_GE(left, Pool::kTableReserve);
  EXPECT_FALSE(pool_->IsShortForTables());
  while (table.Grow(1'000)) {
  }
  EXPECT_TRUE(pool_->IsShortForTables());
  EXPECT_LT(pool_->budget().limit() - pool_->budget().charged(), PageCount(5));
  EXPECT_GE(table.frames() + PageCount(5), left);
  const uint32_t capacity = table.capacity();
  EXPECT_EQ(table[capacity - 1].numbers[4], 5u);
  EXPECT_FALSE(pool_->MakeRoomForTables());
  // As soon as a block of the arena is free as a whole, it goes on.
  for (const FrameNumber frame : frames) pool_->FreeFrame(frame);
  pool_->arena().DrainCpuLists();
  EXPECT_TRUE(table.Grow(1'000));
}

INSTANTIATE_TEST_SUITE_P(Backings, PoolTableTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Memfd" : "Tmpfs"; });

}  // namespace
}  // namespace quire
