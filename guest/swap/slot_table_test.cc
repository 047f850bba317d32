#include "guest/swap/slot_table.h"

#include <cstdint>
#include <random>
#include <set>

#include "gtest/gtest.h"
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

TEST(SlotTableTest, ACursorTakesSlotAfterSlot) {
  SlotTable table;
  SlotTable::Cursor one, other;
  table.BeginCluster(one);
  const SwapSlot first = table.Allocate(one);
  table.BeginCluster(other);
  for (uint64_t i = 1; i < SlotTable::kCluster; ++i) {
    EXPECT_EQ(table.Allocate(one), SwapSlot(first.value() + i));
    table.Allocate(other);
  }
}

TEST(SlotTableTest, AClusterThatIsBegunIsEmptyUnlessTheTableWouldGrowForNothing) {
  SlotTable table;
  SlotTable::Cursor cursor;
  std::set<uint64_t> clusters;
  for (int i = 0; i < 20; ++i) {
    table.BeginCluster(cursor);
    const SwapSlot slot = table.Allocate(cursor);
    if (slot.value() % SlotTable::kCluster == 0) clusters.insert(slot.value() / SlotTable::kCluster);
  }
  EXPECT_EQ(clusters.size(), 8u);
  EXPECT_EQ(table.capacity(), 8 * SlotTable::kCluster);
}

TEST(SlotTableTest, GapsAreFilledBeforeTheTableGrows) {
  SlotTable table;
  SlotTable::Cursor cursor;
  std::set<uint64_t> taken;
  for (uint32_t i = 0; i < 16 * SlotTable::kCluster; ++i) taken.insert(table.Allocate(cursor).value());
  const uint32_t capacity = table.capacity();
  ASSERT_EQ(taken.size(), capacity);
  for (uint32_t i = 0; i < capacity; i += 3) {
    table.Free(SwapSlot(i));
    taken.erase(i);
  }
  while (taken.size() < capacity) ASSERT_TRUE(taken.insert(table.Allocate(cursor).value()).second);
  EXPECT_EQ(table.capacity(), capacity);
}

TEST(SlotTableTest, RandomUseNeverGivesASlotTwice) {
  SlotTable table;
  std::mt19937 random(1);
  std::set<uint64_t> taken;
  SlotTable::Cursor cursors[3];
  for (int i = 0; i < 100'000; ++i) {
    SlotTable::Cursor& cursor = cursors[random() % 3];
    if (random() % 1000 == 0) table.BeginCluster(cursor);
    if (random() % 100 < (i / 10'000 % 2 == 0 ? 60 : 40) || taken.empty()) {
      ASSERT_TRUE(taken.insert(table.Allocate(cursor).value()).second);
    } else {
      const auto victim = taken.lower_bound(random() % (*taken.rbegin() + 1));
      table.Free(SwapSlot(*victim));
      taken.erase(victim);
    }
  }
  EXPECT_LE(table.capacity(), 64 * SlotTable::kCluster);
}

TEST(SlotTableDeathTest, FreeingTwiceStopsTheProgram) {
  SlotTable table;
  SlotTable::Cursor cursor;
  const SwapSlot slot = table.Allocate(cursor);
  table.Free(slot);
  EXPECT_DEATH(table.Free(slot), "broken invariant");
}

}  // namespace
}  // namespace quire
