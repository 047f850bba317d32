#include "guest/frames/frame_table.h"

#include <sstream>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(FrameDescriptorTest, FreeRunKeepsItsOrderAndLinks) {
  const FrameDescriptor d = FrameDescriptor::Free(9, FrameNumber(0xffffffe), FrameDescriptor::kNoFrame);
  EXPECT_EQ(d.kind(), FrameKind::kFree);
  EXPECT_EQ(d.order(), 9);
  EXPECT_EQ(d.previous(), FrameNumber(0xffffffe));
  EXPECT_EQ(d.next(), FrameDescriptor::kNoFrame);
}

TEST(FrameDescriptorTest, OwnedPageKeepsTheLargestGuestAndGfn) {
  const Gfn gfn((uint64_t{1} << FrameDescriptor::kGfnBits) - 1);
  const FrameDescriptor d = FrameDescriptor::Owned(GuestId{0xffff}, gfn);
  EXPECT_EQ(d.kind(), FrameKind::kOwned);
  EXPECT_EQ(d.guest(), GuestId{0xffff});
  EXPECT_EQ(d.gfn(), gfn);
}

TEST(FrameDescriptorTest, AGfnThatDoesNotFitStopsTheProgram) {
  EXPECT_DEATH(FrameDescriptor::Owned(GuestId{1}, Gfn(uint64_t{1} << FrameDescriptor::kGfnBits)), "broken invariant");
}

TEST(FrameDescriptorTest, ZoneKeepsItsOrderAndValue) {
  const FrameDescriptor d = FrameDescriptor::Zone(2, 0xffffffff);
  EXPECT_EQ(d.kind(), FrameKind::kZone);
  EXPECT_EQ(d.order(), 2);
  EXPECT_EQ(d.zone_value(), 0xffffffff);
}

TEST(FrameDescriptorTest, PrintsItsKind) {
  std::ostringstream out;
  out << FrameDescriptor::Wired();
  EXPECT_EQ(out.str(), "wired (0x0000000000000007)");
}

TEST(FrameTableTest, AnUntouchedTableSaysAbsentEvenWhenItIsHuge) {
  const PageCount size = PageCount::OfBlocks(uint64_t{1} << 18);  // 512 GiB of frames, 1 GiB of descriptors
  FrameTable table = FrameTable::Create(size).value();
  EXPECT_TRUE(table.Get(FrameNumber(size.in_pages() - 1)).is(FrameKind::kAbsent));
}

TEST(FrameTableTest, FillSetsTheRangeAndNothingElse) {
  FrameTable table = FrameTable::Create(kOneBlock).value();
  const FrameRange range(FrameNumber(7), PageCount(3));
  table.Fill(range, FrameDescriptor::Wired());
  for (FrameNumber frame; frame < table.range().end(); ++frame) {
    EXPECT_EQ(table.Get(frame).is(FrameKind::kWired), range.contains(frame)) << frame;
  }
}

TEST(FrameTableTest, RefusesSizesThatAreNotWholeBlocksOrTooLarge) {
  for (const PageCount size : {PageCount(0), PageCount(511), FrameTable::kMaxSize + kOneBlock}) {
    EXPECT_EQ(FrameTable::Create(size).status().code(), absl::StatusCode::kInvalidArgument) << size.in_pages();
  }
}

TEST(FrameTableTest, AFrameBeyondTheTableStopsTheProgram) {
  FrameTable table = FrameTable::Create(kOneBlock).value();
  EXPECT_DEATH(table.Get(FrameNumber(kPagesPerBlock)), "broken invariant");
}

}  // namespace
}  // namespace quire
