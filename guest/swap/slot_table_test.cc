#include "guest/swap/slot_table.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool.h"
#include "guest/frames/reserve.h"
#include "guest/swap/slot_record.h"

namespace quire {
namespace {

TEST(SlotRecordTest, FieldsDoNotTouchEachOther) {
  SlotRecord record;
  record.set_hash(0xfedcba9876543210);
  record.set_codec(SlotCodec::kZstd);
  record.set_tried(true);
  record.set_place(0x2bcdef012345);
  record.set_length(kPageSize);
  record.set_kind(SlotKind::kBacked);
  record.set_refs(0xfffe);
  record.set_area(7);
  record.set_age(0xff);
  EXPECT_EQ(record.hash(), 0xfedcba9876543210);
  EXPECT_EQ(record.place(), 0x2bcdef012345u);
  EXPECT_EQ(record.codec(), SlotCodec::kZstd);
  EXPECT_TRUE(record.tried());
  EXPECT_EQ(record.length(), kPageSize);
  EXPECT_EQ(record.kind(), SlotKind::kBacked);
  EXPECT_EQ(record.refs(), 0xfffe);
  EXPECT_EQ(record.area(), 7);
  EXPECT_EQ(record.age(), 0xff);
  record.set_codec(SlotCodec::kLz4);
  EXPECT_TRUE(record.tried());
  record.set_tried(false);
  EXPECT_EQ(record.codec(), SlotCodec::kLz4);
  EXPECT_EQ(record.place(), 0x2bcdef012345u);
  EXPECT_EQ(SlotRecord().kind(), SlotKind::kFree);
  EXPECT_EQ(SlotRecord().codec(), SlotCodec::kLz4);
  EXPECT_FALSE(SlotRecord().tried());
}

class SlotTableTest : public ::testing::Test {
 protected:
  SwapSlot Allocate(SlotTable::Cursor& cursor) { return table_.Allocate(cursor).value(); }

  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(8), .reservations = {}, .use_memfd = true}).value();
  SlotTable table_{*pool_};
};
using SlotTableDeathTest = SlotTableTest;

TEST_F(SlotTableTest, ACursorTakesSlotAfterSlot) {
  SlotTable::Cursor one, other;
  table_.BeginCluster(one);
  const SwapSlot first = Allocate(one);
  table_.BeginCluster(other);
  for (uint64_t i = 1; i < SlotTable::kCluster; ++i) {
    EXPECT_EQ(Allocate(one), SwapSlot(first.value() + i));
    Allocate(other);
  }
}

TEST_F(SlotTableTest, AClusterThatIsBegunIsEmptyUnlessTheTableWouldGrowForNothing) {
  SlotTable::Cursor cursor;
  std::set<uint64_t> clusters;
  for (int i = 0; i < 20; ++i) {
    table_.BeginCluster(cursor);
    const SwapSlot slot = Allocate(cursor);
    if (slot.value() % SlotTable::kCluster == 0) clusters.insert(slot.value() / SlotTable::kCluster);
  }
  EXPECT_EQ(clusters.size(), 8u);
  EXPECT_EQ(table_.capacity(), 8 * SlotTable::kCluster);
}

TEST_F(SlotTableTest, GapsAreFilledBeforeTheTableGrows) {
  SlotTable::Cursor cursor;
  std::set<uint64_t> taken;
  for (uint32_t i = 0; i < 16 * SlotTable::kCluster; ++i) taken.insert(Allocate(cursor).value());
  const uint32_t capacity = table_.capacity();
  ASSERT_EQ(taken.size(), capacity);
  for (uint32_t i = 0; i < capacity; i += 3) {
    table_.Free(SwapSlot(i));
    taken.erase(i);
  }
  while (taken.size() < capacity) ASSERT_TRUE(taken.insert(Allocate(cursor).value()).second);
  EXPECT_EQ(table_.capacity(), capacity);
}

TEST_F(SlotTableTest, RandomUseNeverGivesASlotTwice) {
  std::mt19937 random(1);
  std::set<uint64_t> taken;
  SlotTable::Cursor cursors[3];
  for (int i = 0; i < 100'000; ++i) {
    SlotTable::Cursor& cursor = cursors[random() % 3];
    if (random() % 1000 == 0) table_.BeginCluster(cursor);
    if (random() % 100 < (i / 10'000 % 2 == 0 ? 60 : 40) || taken.empty()) {
      ASSERT_TRUE(taken.insert(Allocate(cursor).value()).second);
    } else {
      const auto victim = taken.lower_bound(random() % (*taken.rbegin() + 1));
      table_.Free(SwapSlot(*victim));
      taken.erase(victim);
    }
  }
  EXPECT_LE(table_.capacity(), 64 * SlotTable::kCluster);
}

TEST_F(SlotTableTest, WhatItGrowsByIsChargedToThePool) {
  EXPECT_EQ(pool_->budget().charged(), PageCount());
  SlotTable::Cursor cursor;
  for (int i = 0; i < 20'000; ++i) Allocate(cursor);
  EXPECT_EQ(table_.slots().used, 20'000u);
  EXPECT_EQ(table_.slots().frames, PageCount::Ceil(ByteCount::Bytes(table_.capacity() * sizeof(SlotRecord))));
  EXPECT_EQ(table_.clusters().used, 20'000 / SlotTable::kCluster + 1);
  EXPECT_EQ(pool_->budget().charged(), table_.slots().frames + table_.clusters().frames);
  EXPECT_EQ(pool_->file().PopulatedPages(), pool_->budget().charged());
  EXPECT_EQ(pool_->Check(), absl::OkStatus());
}

TEST_F(SlotTableTest, WithoutMemoryThereIsNoSlotAndLaterThereIs) {
  std::vector<FrameNumber> frames;
  for (;;) {
    const absl::StatusOr<FrameNumber> frame = pool_->arena().Allocate(0, Reserve::kReclaim);
    if (!frame.ok()) break;
    frames.push_back(*frame);
  }
  SlotTable::Cursor cursor;
  std::vector<SwapSlot> slots;
  while (const std::optional<SwapSlot> slot = table_.Allocate(cursor)) slots.push_back(*slot);
  EXPECT_EQ(slots.size(), table_.capacity());
  EXPECT_EQ(table_.slots().failures, 1u);
  EXPECT_LT(pool_->budget().limit() - pool_->budget().charged(), PageCount(4)) << "what a cluster takes";
  table_.BeginCluster(cursor);  // to no avail
  EXPECT_FALSE(table_.Allocate(cursor).has_value());
  // A slot that falls free is given out again.
  table_.Free(slots[100]);
  EXPECT_EQ(Allocate(cursor), slots[100]);
  for (const FrameNumber frame : frames) pool_->arena().Free(frame, 0);
  Allocate(cursor);
  EXPECT_EQ(pool_->Check(), absl::OkStatus());
}

TEST_F(SlotTableDeathTest, FreeingTwiceStopsTheProgram) {
  // The pool is not mapped in a forked child.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  SlotTable::Cursor cursor;
  const SwapSlot slot = Allocate(cursor);
  table_.Free(slot);
  EXPECT_DEATH(table_.Free(slot), "broken invariant");
}

}  // namespace
}  // namespace quire
