// The tables of a software EPT: four levels, leaves of 4 KiB and 2 MiB (ept_entry.h).
//
// As with a processor's page tables there is one writer and any number of walkers beside it. Changes are serialized by
// the caller. Walkers take no lock; all they ever write is the accessed and dirty bits of a leaf, by compare and swap,
// so a leaf that has been zapped stays zapped. A table that is unlinked goes to the caller, who frees it when no walker
// can be in it any more.
//
// A table of 4 KiB leaves is given up when the whole block is zapped, or mapped by one 2 MiB leaf; the levels above (a
// page for each GiB) stay until the end.
#ifndef QUIRE_MMU_EPT_TABLES_H_
#define QUIRE_MMU_EPT_TABLES_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/counters.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "mmu/ept_entry.h"

namespace quire {

struct alignas(kPageSize) EptTable {
  std::array<std::atomic<uint64_t>, 512> entries{};
};
static_assert(sizeof(EptTable) == kPageSize);

// Hands out tables from ordinary memory, outside the pool. They are carved from larger mappings: one by one, malloc
// needs 8 KiB for an aligned 4 KiB. What is freed is used again and goes back to the host at the end. Thread safe.
class EptTableAllocator {
 public:
  // Zeroed.
  EptTable* Allocate() ABSL_LOCKS_EXCLUDED(mu_);
  void Free(EptTable* table) ABSL_LOCKS_EXCLUDED(mu_);

  // Memory taken from the host.
  ByteCount bytes() const { return ByteCount::Bytes(carved_.value() * sizeof(EptTable)); }

 private:
  static constexpr uint64_t kTablesPerChunk = 64;

  absl::Mutex mu_;  // innermost
  std::vector<EptTable*> free_ ABSL_GUARDED_BY(mu_);
  std::vector<Mapping> chunks_ ABSL_GUARDED_BY(mu_);
  Counter carved_;  // tables ever taken from chunks_
};

class EptTables {
 public:
  // Guest frame numbers have 36 bits: four levels of nine.
  static constexpr PageCount kMaxPages = PageCount(uint64_t{1} << 36);

  using Retired = std::vector<EptTable*>;

  EptTables() = default;
  EptTables(const EptTables&) = delete;
  EptTables& operator=(const EptTables&) = delete;

  // Walkers. May run beside one change; `gfn` is below kMaxPages.

  // The leaf that maps `gfn`, as it is now; not present if there is none.
  EptEntry Find(Gfn gfn) const { return FindLeaf(gfn).entry; }

  // Walks as a processor does for an access: sets the leaf's accessed bit, for a write also the dirty bit, and returns
  // the leaf. Returns an entry that is not present if there is no leaf or it does not allow the access.
  EptEntry Touch(Gfn gfn, Access access);

  // Changes. Each adds the tables that it unlinked to `retired`, which the caller gives to Free.

  // Maps the pages of `resolution`, by one 2 MiB leaf if they are a whole block in 512 aligned frames. New leaves are
  // neither accessed nor dirty. Pages that are mapped already keep what they have, and gain what they lack: their
  // frames are the same, since nobody changes a frame without an invalidation, and nobody takes rights away without
  // one.
  void Install(const Resolution& resolution, Retired& retired);

  // Unmaps every page of `range`. A 2 MiB leaf that is hit in part goes as a whole. Returns the hull of what was
  // mapped and is no more: only there can a TLB hold something.
  GfnRange Zap(GfnRange range, Retired& retired);

  // Clears the accessed bits in `range`. Returns whether one was set, and the hull of what is mapped.
  struct Aged {
    bool young = false;
    GfnRange mapped;
  };
  Aged ClearAccessed(GfnRange range);

  // Takes unlinked tables back. No walker that was under way when they were unlinked is so any more. Any thread.
  void Free(Retired& retired);

  // Number of 2 MiB leaves, memory taken by tables. Any thread.
  uint64_t blocks() const { return blocks_.value(); }
  ByteCount bytes() const { return allocator_.bytes(); }

 private:
  using Slot = std::atomic<uint64_t>;
  struct Leaf {
    Slot* slot = nullptr;
    EptEntry entry;
  };

  Leaf FindLeaf(Gfn gfn) const;
  Slot& DirectorySlot(Gfn gfn);
  void InstallBlock(Slot& slot, const Resolution& resolution, Retired& retired);
  void InstallPages(EptTable& table, const Resolution& resolution);
  EptTable& Split(Slot& slot);
  void ZapIn(EptTable& table, int level, GfnRange range, GfnRange& zapped, Retired& retired);

  EptTableAllocator allocator_;
  EptTable& root_ = *allocator_.Allocate();
  Gauge blocks_;
};

}  // namespace quire

#endif  // QUIRE_MMU_EPT_TABLES_H_
