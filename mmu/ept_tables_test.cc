#include "mmu/ept_tables.h"

#include <array>
#include <cstdint>
#include <ios>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr auto kReadOnly = Protection::kReadOnly;
constexpr auto kReadWrite = Protection::kReadWrite;

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }

class EptTablesTest : public testing::Test {
 protected:
  void Install(GfnRange range, uint64_t frame, Protection protection = kReadWrite) {
    tables_.Install({range, FrameNumber(frame), protection}, retired_);
  }
  GfnRange Zap(GfnRange range) { return tables_.Zap(range, retired_); }

  EptTables tables_;
  EptTables::Retired retired_;
};

TEST_F(EptTablesTest, NothingIsMappedAtFirst) {
  EXPECT_FALSE(tables_.Find(Gfn(0)).present());
  EXPECT_FALSE(tables_.Find(Gfn(EptTables::kMaxPages.in_pages() - 1)).present());
}

TEST_F(EptTablesTest, InstalledPagesAreNeitherAccessedNorDirty) {
  Install(Pages(5, 8), 100);
  EXPECT_EQ(tables_.Find(Gfn(6)), EptEntry::Page(FrameNumber(101), kReadWrite));
  EXPECT_FALSE(tables_.Find(Gfn(4)).present());
  EXPECT_FALSE(tables_.Find(Gfn(8)).present());
}

TEST_F(EptTablesTest, TouchSetsTheBitsOfThatAccess) {
  Install(Pages(5, 7), 100);
  EXPECT_TRUE(tables_.Touch(Gfn(5), Access::kRead).accessed());
  EXPECT_FALSE(tables_.Find(Gfn(5)).dirty());
  EXPECT_TRUE(tables_.Touch(Gfn(5), Access::kWrite).dirty());
  EXPECT_FALSE(tables_.Find(Gfn(6)).accessed());
}

TEST_F(EptTablesTest, RefusedTouchLeavesNoMark) {
  Install(Pages(5, 6), 100, kReadOnly);
  EXPECT_FALSE(tables_.Touch(Gfn(5), Access::kWrite).present());
  EXPECT_FALSE(tables_.Find(Gfn(5)).accessed());
}

TEST_F(EptTablesTest, AlignedBlockIsOneLeaf) {
  Install(Pages(512, 1024), 2048);
  EXPECT_EQ(tables_.Find(Gfn(1000)), EptEntry::Block(FrameNumber(2048), kReadWrite));
  EXPECT_EQ(tables_.blocks(), 1u);
  EXPECT_EQ(tables_.bytes(), PageCount(3).bytes());
}

TEST_F(EptTablesTest, UnalignedFramesOrPartOfABlockAreNot) {
  Install(Pages(512, 1024), 2049);
  Install(Pages(1024, 1535), 4096);
  EXPECT_EQ(tables_.blocks(), 0u);
  EXPECT_EQ(tables_.Find(Gfn(1000)).frame(), FrameNumber(2049 + 488));
}

TEST_F(EptTablesTest, BlockTakesOverTheMarksOfItsPages) {
  Install(Pages(0, 4), 512);
  tables_.Touch(Gfn(1), Access::kRead);
  tables_.Touch(Gfn(3), Access::kWrite);
  Install(Pages(0, 512), 512);
  EXPECT_TRUE(tables_.Find(Gfn(100)).large());
  EXPECT_TRUE(tables_.Find(Gfn(100)).accessed());
  EXPECT_TRUE(tables_.Find(Gfn(100)).dirty());
  EXPECT_EQ(retired_.size(), 1u);
}

TEST_F(EptTablesTest, ReadOnlyBlockDoesNotTakeWritablePagesAway) {
  Install(Pages(3, 4), 515);
  Install(Pages(0, 512), 512, kReadOnly);
  EXPECT_TRUE(tables_.Find(Gfn(3)).writable());
  EXPECT_FALSE(tables_.Find(Gfn(4)).writable());
  EXPECT_TRUE(tables_.Find(Gfn(4)).present());
}

TEST_F(EptTablesTest, WritablePageInAReadOnlyBlockSplitsIt) {
  Install(Pages(0, 512), 512, kReadOnly);
  tables_.Touch(Gfn(0), Access::kRead);
  Install(Pages(7, 8), 519);
  EXPECT_EQ(tables_.blocks(), 0u);
  EXPECT_TRUE(tables_.Find(Gfn(7)).writable());
  EXPECT_EQ(tables_.Find(Gfn(8)), EptEntry::Page(FrameNumber(520), kReadOnly).With(EptEntry::kAccessed));
}

TEST_F(EptTablesTest, ZapOfPartOfABlockDropsAllOfIt) {
  Install(Pages(512, 1024), 512);
  EXPECT_EQ(Zap(Pages(600, 601)), Pages(512, 1024));
  EXPECT_FALSE(tables_.Find(Gfn(512)).present());
  EXPECT_EQ(tables_.blocks(), 0u);
}

TEST_F(EptTablesTest, ZapReportsTheHullOfWhatWasMapped) {
  Install(Pages(10, 12), 10);
  Install(Pages(700, 701), 700);
  EXPECT_EQ(Zap(Pages(0, 2048)), Pages(10, 701));
  EXPECT_TRUE(Zap(Pages(0, 2048)).empty());
}

TEST_F(EptTablesTest, ZapOfAWholeBlockGivesItsTableBack) {
  Install(Pages(10, 12), 10);
  Zap(Pages(0, 12));
  EXPECT_TRUE(retired_.empty());
  Install(Pages(10, 12), 10);
  Zap(Pages(0, 512));
  EXPECT_EQ(retired_.size(), 1u);
}

// A page for each block, and for each GiB, and two at the top.
TEST_F(EptTablesTest, TablesTakeAPageEachAndAreUsedAgainEmpty) {
  for (uint64_t round = 0; round < 3; ++round) {
    for (uint64_t block = 0; block < 600; ++block) Install(Pages(512 * block, 512 * block + 1), 512 * block);
    EXPECT_EQ(tables_.bytes(), PageCount(600 + 2 + 2).bytes());
    Zap(Pages(0, 512 * 600));
    tables_.Free(retired_);
  }
  Install(Pages(7, 8), 7);
  for (uint64_t gfn = 0; gfn < 512; ++gfn) EXPECT_EQ(tables_.Find(Gfn(gfn)).present(), gfn == 7);
}

TEST_F(EptTablesTest, TheLastPageOfAllHasAPlace) {
  const Gfn last(EptTables::kMaxPages.in_pages() - 1);
  Install(GfnRange(last, kOnePage), 1);
  EXPECT_TRUE(tables_.Touch(last, Access::kWrite).present());
  EXPECT_EQ(Zap(Pages(0, ~uint64_t{0})), GfnRange(last, kOnePage));
}

using EptTablesDeathTest = EptTablesTest;

TEST_F(EptTablesDeathTest, FramesDoNotChangeWithoutAnInvalidation) {
  Install(Pages(5, 6), 100);
  EXPECT_DEATH(Install(Pages(5, 6), 101), "broken invariant");
}

// The same in the plainest way: an entry a page, and whether a block is one leaf.
class NaiveTables {
 public:
  struct Page {
    bool present = false, writable = false, accessed = false, dirty = false;
    uint64_t frame = 0;
  };
  struct Block {
    uint64_t number = 0;
    bool huge = false;
    bool has_table = false;
    std::array<Page, 512> pages{};

    Gfn GfnOf(uint64_t i) const { return FirstGfn(BlockNumber(number)) + PageCount(i); }
    bool AnyPresent() const {
      for (const Page& p : pages) {
        if (p.present) return true;
      }
      return false;
    }
  };

  explicit NaiveTables(const std::vector<uint64_t>& numbers) {
    for (uint64_t n : numbers) blocks_.emplace_back().number = n;
  }
  std::vector<Block>& blocks() { return blocks_; }

  static EptEntry Entry(const Block& block, uint64_t i) {
    const Page& page = block.pages[i];
    if (!page.present) return EptEntry();
    const Protection protection = page.writable ? kReadWrite : kReadOnly;
    const EptEntry leaf = block.huge ? EptEntry::Block(FrameNumber(page.frame - i), protection)
                                     : EptEntry::Page(FrameNumber(page.frame), protection);
    return leaf.With((page.accessed ? EptEntry::kAccessed : 0) | (page.dirty ? EptEntry::kDirty : 0));
  }

  void Install(Block& block, GfnRange range, uint64_t frame, Protection protection) {
    const bool writable = protection == kReadWrite;
    const bool whole = range.size() == kOneBlock && frame % 512 == 0;
    if (block.huge) {
      if (whole || !writable) return AddWrite(block, PagesOf(BlockNumber(block.number)), writable);
      if (block.pages[0].writable) return;
      block.huge = false;
      block.has_table = true;
      return AddWrite(block, range, true);
    }
    for (uint64_t i = 0; i < 512; ++i) {
      if (!range.contains(block.GfnOf(i)) || block.pages[i].present) continue;
      block.pages[i].present = true;
      block.pages[i].frame = frame + (block.GfnOf(i) - range.begin()).in_pages();
    }
    AddWrite(block, range, writable);
    if (whole && (writable || !block.has_table)) {
      block.huge = true;
      block.has_table = false;
      Share(block);
    } else {
      block.has_table = true;
    }
  }

  bool Touch(Block& block, uint64_t i, Access access) {
    Page& page = block.pages[i];
    if (!page.present || (access == Access::kWrite && !page.writable)) return false;
    page.accessed = true;
    if (access == Access::kWrite) page.dirty = true;
    if (block.huge) Share(block);
    return true;
  }

  GfnRange Zap(GfnRange range) {
    GfnRange zapped;
    for (Block& block : blocks_) {
      const GfnRange all = PagesOf(BlockNumber(block.number));
      const bool hit_huge = block.huge && range.overlaps(all);
      if (range.contains(all) && block.AnyPresent()) block.has_table = false;
      for (uint64_t i = 0; i < 512; ++i) {
        if (!block.pages[i].present || (!hit_huge && !range.contains(block.GfnOf(i)))) continue;
        block.pages[i] = Page();
        zapped = zapped.Hull(GfnRange(block.GfnOf(i), kOnePage));
      }
      if (hit_huge) block.huge = false;
    }
    return zapped;
  }

  EptTables::Aged ClearAccessed(GfnRange range) {
    EptTables::Aged aged;
    for (Block& block : blocks_) {
      const bool hit_huge = block.huge && range.overlaps(PagesOf(BlockNumber(block.number)));
      for (uint64_t i = 0; i < 512; ++i) {
        Page& page = block.pages[i];
        if (!page.present || (!hit_huge && !range.contains(block.GfnOf(i)))) continue;
        aged.mapped = aged.mapped.Hull(GfnRange(block.GfnOf(i), kOnePage));
        aged.young |= page.accessed;
        page.accessed = false;
      }
    }
    return aged;
  }

 private:
  static void AddWrite(Block& block, GfnRange range, bool writable) {
    for (uint64_t i = 0; i < 512; ++i) block.pages[i].writable |= writable && range.contains(block.GfnOf(i));
  }
  // One leaf: what is marked on one page is marked on all.
  static void Share(Block& block) {
    bool accessed = false, dirty = false;
    for (const Page& p : block.pages) accessed |= p.accessed, dirty |= p.dirty;
    for (Page& p : block.pages) p.accessed = accessed, p.dirty = dirty;
  }

  std::vector<Block> blocks_;
};

class RandomTables {
 public:
  explicit RandomTables(uint32_t seed) : random_(seed) {
    for (size_t i = 0; i < naive_.blocks().size(); ++i) frames_.push_back(NewFrame());
  }

  void Step() {
    const size_t b = Below(naive_.blocks().size());
    NaiveTables::Block& block = naive_.blocks()[b];
    const uint64_t operation = Below(10);
    if (operation < 3) return Install(block, frames_[b]);
    if (operation < 7) return Touch(block);
    if (operation < 8) return ClearAccessed(AnyRange(block));
    Zap(Below(20) == 0 ? Pages(0, ~uint64_t{0}) : AnyRange(block));
    for (size_t i = 0; i < frames_.size(); ++i) {
      if (!naive_.blocks()[i].AnyPresent()) frames_[i] = NewFrame();
    }
  }

  void Check() {
    uint64_t huge = 0;
    for (const NaiveTables::Block& block : naive_.blocks()) {
      huge += block.huge ? 1 : 0;
      for (uint64_t i = 0; i < 512; ++i) {
        const uint64_t bits = tables_.Find(block.GfnOf(i)).bits();
        const uint64_t wanted = NaiveTables::Entry(block, i).bits();
        if (bits != wanted) FAIL() << block.GfnOf(i) << std::hex << ": " << bits << " instead of " << wanted;
      }
    }
    ASSERT_EQ(tables_.blocks(), huge);
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }
  uint64_t NewFrame() { return Below(1000) * 512 + (Below(3) == 0 ? 1 : 0); }
  GfnRange AnyRange(const NaiveTables::Block& block) {
    if (Below(3) == 0) return PagesOf(BlockNumber(block.number));
    const uint64_t begin = Below(512);
    return GfnRange(block.GfnOf(begin), PageCount(1 + Below(Below(2) == 0 ? 4 : 512 - begin)));
  }
  void Install(NaiveTables::Block& block, uint64_t frame) {
    const GfnRange range = AnyRange(block).Intersect(PagesOf(BlockNumber(block.number)));
    const uint64_t first = frame + IndexInBlock(range.begin());
    const Protection protection = Below(2) == 0 ? kReadOnly : kReadWrite;
    naive_.Install(block, range, first, protection);
    tables_.Install({range, FrameNumber(first), protection}, retired_);
  }
  void Touch(NaiveTables::Block& block) {
    const uint64_t i = Below(512);
    const Access access = Below(2) == 0 ? Access::kRead : Access::kWrite;
    ASSERT_EQ(tables_.Touch(block.GfnOf(i), access).present(), naive_.Touch(block, i, access));
  }
  void ClearAccessed(GfnRange range) {
    const EptTables::Aged aged = tables_.ClearAccessed(range), wanted = naive_.ClearAccessed(range);
    ASSERT_EQ(aged.young, wanted.young);
    ASSERT_EQ(aged.mapped, wanted.mapped);
  }
  void Zap(GfnRange range) {
    ASSERT_EQ(tables_.Zap(range, retired_), naive_.Zap(range));
    tables_.Free(retired_);
  }

  std::mt19937 random_;
  EptTables tables_;
  EptTables::Retired retired_;
  // Neighbours, both sides of a GiB, and far away.
  NaiveTables naive_{{0, 1, 511, 512, 262'143, 262'144, (uint64_t{1} << 27) - 1}};
  std::vector<uint64_t> frames_;  // where each block lies, until all of it is zapped
};

TEST(EptTablesModelTest, RandomOperationsMatchANaiveWalker) {
  for (uint32_t seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE(seed);
    RandomTables tables(seed);
    for (int i = 0; i < 1'000; ++i) {
      ASSERT_NO_FATAL_FAILURE(tables.Step());
      if (i % 4 != 0) continue;
      ASSERT_NO_FATAL_FAILURE(tables.Check()) << "after step " << i;
    }
  }
}

}  // namespace
}  // namespace quire
