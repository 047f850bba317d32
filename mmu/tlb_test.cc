#include "mmu/tlb.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }

std::byte* Address(uint64_t n) { return reinterpret_cast<std::byte*>(n * kPageSize); }

TEST(TlbTest, EmptyFindsNothing) {
  Tlb tlb;
  EXPECT_EQ(tlb.Find(Gfn(0), Access::kRead), nullptr);
  EXPECT_EQ(tlb.Find(Gfn(~uint64_t{0} >> 12), Access::kRead), nullptr);
}

TEST(TlbTest, PageIsFoundForWhatItAllows) {
  Tlb tlb;
  tlb.InsertPage(Gfn(7), Address(70), /*can_write=*/false);
  tlb.InsertPage(Gfn(8), Address(80), /*can_write=*/true);
  EXPECT_EQ(tlb.Find(Gfn(7), Access::kRead), Address(70));
  EXPECT_EQ(tlb.Find(Gfn(7), Access::kWrite), nullptr);
  EXPECT_EQ(tlb.Find(Gfn(8), Access::kRead), Address(80));
  EXPECT_EQ(tlb.Find(Gfn(8), Access::kWrite), Address(80));
  EXPECT_EQ(tlb.Find(Gfn(7 + Tlb::kPageEntries), Access::kRead), nullptr);
}

TEST(TlbTest, BlockServesAllItsPages) {
  Tlb tlb;
  tlb.InsertBlock(BlockNumber(3), Address(5120), /*can_write=*/true);
  EXPECT_EQ(tlb.Find(Gfn(3 * 512), Access::kWrite), Address(5120));
  EXPECT_EQ(tlb.Find(Gfn(3 * 512 + 511), Access::kWrite), Address(5120 + 511));
  EXPECT_EQ(tlb.Find(Gfn(4 * 512), Access::kRead), nullptr);
}

TEST(TlbTest, FlushOfOnePageDropsTheBlockAroundIt) {
  Tlb tlb;
  tlb.InsertBlock(BlockNumber(3), Address(5120), false);
  tlb.InsertBlock(BlockNumber(4), Address(10240), false);
  tlb.Flush(Pages(4 * 512 - 1, 4 * 512));
  EXPECT_EQ(tlb.Find(Gfn(3 * 512), Access::kRead), nullptr);
  EXPECT_NE(tlb.Find(Gfn(4 * 512), Access::kRead), nullptr);
}

TEST(TlbTest, FlushOfNothingDropsNothing) {
  Tlb tlb;
  tlb.InsertPage(Gfn(0), Address(1), false);
  tlb.Flush(GfnRange());
  EXPECT_NE(tlb.Find(Gfn(0), Access::kRead), nullptr);
}

// A TLB may forget, but what it finds is what was last inserted and not flushed since.
TEST(TlbTest, RandomOperationsNeverFindWhatWasFlushed) {
  constexpr uint64_t kPages = 4096;
  constexpr uint64_t kBlocks = kPages / 512;
  struct Known {
    std::byte* address = nullptr;
    bool can_write = false;
  };
  std::mt19937 random(1);
  Tlb tlb;
  std::vector<Known> pages(kPages), blocks(kBlocks);
  uint64_t found = 0;
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t gfn = random() % kPages, block = random() % kBlocks;
    const bool can_write = random() % 2 != 0;
    switch (random() % 8) {
      case 0:
        blocks[block] = {Address(1 + random() % 1000), can_write};
        tlb.InsertBlock(BlockNumber(block), blocks[block].address, can_write);
        break;
      case 1: {
        const uint64_t end = std::min(kPages, gfn + 1 + random() % (random() % 4 == 0 ? 2000 : 4));
        tlb.Flush(Pages(gfn, end));
        for (uint64_t p = gfn; p < end; ++p) pages[p] = blocks[p / 512] = {};
        break;
      }
      default:
        pages[gfn] = {Address(1 + random() % 1000), can_write};
        tlb.InsertPage(Gfn(gfn), pages[gfn].address, can_write);
    }
    for (int probe = 0; probe < 64; ++probe) {
      const uint64_t p = random() % kPages;
      const Access access = random() % 2 != 0 ? Access::kWrite : Access::kRead;
      std::byte* const address = tlb.Find(Gfn(p), access);
      if (address == nullptr) continue;
      ++found;
      const Known &page = pages[p], &b = blocks[p / 512];
      const bool by_page = address == page.address && (page.can_write || access == Access::kRead);
      const bool by_block = b.address != nullptr && address == b.address + p % 512 * kPageSize &&
                            (b.can_write || access == Access::kRead);
      ASSERT_TRUE(by_page || by_block) << "gfn " << p;
    }
  }
  EXPECT_GT(found, 1000u);
}

}  // namespace
}  // namespace quire
