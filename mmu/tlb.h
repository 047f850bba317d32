// The translations that one software vCPU has at hand.
//
// Two direct-mapped arrays, one for translations of 4 KiB and one for 2 MiB, indexed by the low bits of the page or
// block number, so that a run of pages never collides with itself.
//
//   key:   63                                        1   0
//         +------------------------------------------+---+
//         | page number, or block number             | W |   all ones: empty
//         +------------------------------------------+---+
//   W: the translation may be used to write. Set only where the leaf's dirty bit is set too: the first write to a page
//   has to pass by the table, as on a processor.
#ifndef QUIRE_MMU_TLB_H_
#define QUIRE_MMU_TLB_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/units.h"

namespace quire {

// Used by one thread. About 8.5 KiB.
class Tlb {
 public:
  static constexpr uint64_t kPageEntries = 512;  // 2 MiB of scattered pages, in a quarter of a first-level cache
  static constexpr uint64_t kBlockEntries = 32;

  Tlb() { FlushAll(); }

  // Where `gfn` is, if a translation that allows `access` is held; else null.
  std::byte* Find(Gfn gfn, Access access) const {
    const Entry& page = PageSlot(gfn);
    if (page.Holds(gfn.value(), access)) return page.address;
    const Entry& block = BlockSlot(BlockOf(gfn));
    if (block.Holds(BlockOf(gfn).value(), access)) return block.address + IndexInBlock(gfn) * kPageSize;
    return nullptr;
  }

  // Adds a translation in place of the one in its slot. `address` is that of the page, or of the block's first page.
  void InsertPage(Gfn gfn, std::byte* address, bool can_write) {
    pages_[gfn.value() % kPageEntries] = {gfn.value() << 1 | (can_write ? 1 : 0), address};
  }
  void InsertBlock(BlockNumber block, std::byte* address, bool can_write) {
    blocks_[block.value() % kBlockEntries] = {block.value() << 1 | (can_write ? 1 : 0), address};
  }

  // Drops every translation of a page of `range`, by pages while that touches each slot at most once, else everything.
  void Flush(GfnRange range) {
    if (range.empty()) return;
    if (range.size().in_pages() > kPageEntries) return FlushAll();
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      Entry& entry = pages_[gfn.value() % kPageEntries];
      if (entry.Is(gfn.value())) entry = Entry();
    }
    const BlockNumber last = BlockOf(range.end() - kOnePage);
    for (BlockNumber block = BlockOf(range.begin()); block <= last; ++block) {
      Entry& entry = blocks_[block.value() % kBlockEntries];
      if (entry.Is(block.value())) entry = Entry();
    }
  }
  void FlushAll() {
    pages_.fill(Entry());
    blocks_.fill(Entry());
  }

 private:
  struct Entry {
    uint64_t key = ~uint64_t{0};
    std::byte* address = nullptr;

    bool Is(uint64_t number) const { return key >> 1 == number; }
    bool Holds(uint64_t number, Access access) const {
      const uint64_t write = access == Access::kWrite ? 1 : 0;
      return (key & (~uint64_t{1} | write)) == (number << 1 | write);
    }
  };

  const Entry& PageSlot(Gfn gfn) const { return pages_[gfn.value() % kPageEntries]; }
  const Entry& BlockSlot(BlockNumber block) const { return blocks_[block.value() % kBlockEntries]; }

  std::array<Entry, kPageEntries> pages_;
  std::array<Entry, kBlockEntries> blocks_;
};

}  // namespace quire

#endif  // QUIRE_MMU_TLB_H_
