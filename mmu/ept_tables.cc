#include "mmu/ept_tables.h"

#include <sys/mman.h>

#include <new>

#include "base/check.h"

namespace quire {
namespace {

constexpr int kRootLevel = 4;
constexpr int kBlockLevel = 2;  // whose leaves are of 2 MiB
constexpr int kPageLevel = 1;

// Pages mapped by one entry of a table of this level.
constexpr PageCount Span(int level) { return PageCount(uint64_t{1} << (9 * (level - 1))); }

std::atomic<uint64_t>& SlotOf(EptTable& table, int level, Gfn gfn) {
  return table.entries[gfn.value() / Span(level).in_pages() % 512];
}

// Acquire: pairs with the release that linked what the entry points at.
EptEntry Load(const std::atomic<uint64_t>& slot) { return EptEntry(slot.load(std::memory_order_acquire)); }
void Store(std::atomic<uint64_t>& slot, EptEntry entry) { slot.store(entry.bits(), std::memory_order_release); }

EptTable* TableOf(EptEntry entry) { return static_cast<EptTable*>(entry.table()); }

// Calls visit(slot, entry, pages) for each present entry of `table` that maps a page of `range`, which lies within the
// table.
template <class Visit>
void ForEachPresent(EptTable& table, int level, GfnRange range, Visit&& visit) {
  const PageCount span = Span(level);
  const Gfn first(range.begin().value() / span.in_pages() * span.in_pages());
  for (Gfn begin = first; begin < range.end(); begin = begin + span) {
    std::atomic<uint64_t>& slot = SlotOf(table, level, begin);
    const EptEntry entry = Load(slot);
    if (entry.present()) visit(slot, entry, GfnRange(begin, span));
  }
}

// The same for each leaf below `table`.
template <class Visit>
void ForEachLeaf(EptTable& table, int level, GfnRange range, Visit&& visit) {
  ForEachPresent(table, level, range, [&](std::atomic<uint64_t>& slot, EptEntry entry, GfnRange pages) {
    if (level == kPageLevel || entry.large()) return visit(slot, entry, pages);
    ForEachLeaf(*TableOf(entry), level - 1, range.Intersect(pages), visit);
  });
}

GfnRange Clip(GfnRange range) { return range.Intersect(GfnRange(Gfn(0), EptTables::kMaxPages)); }

bool FitsBlock(const Resolution& r) {
  return r.range == PagesOf(BlockOf(r.range.begin())) && r.frame.value() % kPagesPerBlock == 0;
}

// Empties a table that has been unlinked, taking along the accessed and dirty bits: by exchange, so that a walker that
// is still in it either has set its bit before, or fails to and walks anew.
EptEntry TakeFlags(EptTable& table) {
  uint64_t all = 0;
  for (std::atomic<uint64_t>& slot : table.entries) {
    if (slot.load(std::memory_order_relaxed) != 0) all |= slot.exchange(0, std::memory_order_relaxed);
  }
  return EptEntry(all & (EptEntry::kAccessed | EptEntry::kDirty));
}

}  // namespace

EptTable* EptTableAllocator::Allocate() {
  absl::MutexLock lock(&mu_);
  if (!free_.empty()) {
    EptTable* const table = free_.back();
    free_.pop_back();
    return new (table) EptTable;
  }
  const uint64_t place = carved_.value() % kTablesPerChunk;
  if (place == 0) {
    const ByteCount size = ByteCount::Bytes(kTablesPerChunk * sizeof(EptTable));
    chunks_.push_back(Mapping::Map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).value());
  }
  carved_.Add();
  return new (chunks_.back().data() + place * sizeof(EptTable)) EptTable;
}

void EptTableAllocator::Free(EptTable* table) {
  absl::MutexLock lock(&mu_);
  free_.push_back(table);
}

void EptTables::Free(Retired& retired) {
  for (EptTable* table : retired) allocator_.Free(table);
  retired.clear();
}

EptTables::Leaf EptTables::FindLeaf(Gfn gfn) const {
  QUIRE_CHECK(gfn.value() < kMaxPages.in_pages());
  EptTable* table = &root_;
  for (int level = kRootLevel;; --level) {
    Slot& slot = SlotOf(*table, level, gfn);
    const EptEntry entry = Load(slot);
    if (!entry.present()) return {};
    if (level == kPageLevel || entry.large()) return {&slot, entry};
    table = TableOf(entry);
  }
}

EptEntry EptTables::Touch(Gfn gfn, Access access) {
  const uint64_t flags = EptEntry::kAccessed | (access == Access::kWrite ? EptEntry::kDirty : 0);
  for (;;) {
    const Leaf leaf = FindLeaf(gfn);
    if (!leaf.entry.Allows(access)) return EptEntry();
    const EptEntry touched = leaf.entry.With(flags);
    if (touched == leaf.entry) return touched;
    uint64_t expected = leaf.entry.bits();
    if (leaf.slot->compare_exchange_strong(expected, touched.bits(), std::memory_order_relaxed)) return touched;
  }
}

// The entry that maps the block of `gfn`, with the levels above it made as needed.
EptTables::Slot& EptTables::DirectorySlot(Gfn gfn) {
  EptTable* table = &root_;
  for (int level = kRootLevel; level > kBlockLevel; --level) {
    Slot& slot = SlotOf(*table, level, gfn);
    if (!Load(slot).present()) Store(slot, EptEntry::Table(allocator_.Allocate()));
    table = TableOf(Load(slot));
  }
  return SlotOf(*table, kBlockLevel, gfn);
}

void EptTables::Install(const Resolution& resolution, Retired& retired) {
  QUIRE_CHECK(!resolution.range.empty() && PagesOf(BlockOf(resolution.range.begin())).contains(resolution.range));
  Slot& slot = DirectorySlot(resolution.range.begin());
  const EptEntry old = Load(slot);
  const bool has_table = old.present() && !old.large();
  // A table may hold pages that can be written; one read-only leaf could not.
  const bool may_replace = !has_table || resolution.protection == Protection::kReadWrite;
  if (FitsBlock(resolution) && may_replace) return InstallBlock(slot, resolution, retired);

  if (!old.present()) {
    Store(slot, EptEntry::Table(allocator_.Allocate()));
  } else if (old.large()) {
    QUIRE_CHECK(old.frame() + PageCount(IndexInBlock(resolution.range.begin())) == resolution.frame);
    if (old.writable() || resolution.protection == Protection::kReadOnly) return;
    return InstallPages(Split(slot), resolution);
  }
  InstallPages(*TableOf(Load(slot)), resolution);
}

void EptTables::InstallBlock(Slot& slot, const Resolution& resolution, Retired& retired) {
  const EptEntry leaf = EptEntry::Block(resolution.frame, resolution.protection);
  const EptEntry old = Load(slot);
  if (old.present() && old.large()) {
    QUIRE_CHECK(old.frame() == leaf.frame());
    if (leaf.writable()) slot.fetch_or(EptEntry::kWrite, std::memory_order_relaxed);
    return;
  }
  Store(slot, leaf);
  blocks_.Add();
  if (!old.present()) return;
  slot.fetch_or(TakeFlags(*TableOf(old)).bits(), std::memory_order_relaxed);
  retired.push_back(TableOf(old));
}

void EptTables::InstallPages(EptTable& table, const Resolution& resolution) {
  for (Gfn gfn = resolution.range.begin(); gfn < resolution.range.end(); ++gfn) {
    const EptEntry leaf = EptEntry::Page(resolution.FrameOf(gfn), resolution.protection);
    Slot& slot = SlotOf(table, kPageLevel, gfn);
    const EptEntry old = Load(slot);
    if (!old.present()) {
      Store(slot, leaf);
      continue;
    }
    QUIRE_CHECK(old.frame() == leaf.frame());
    if (leaf.writable() && !old.writable()) slot.fetch_or(EptEntry::kWrite, std::memory_order_relaxed);
  }
}

// Replaces a 2 MiB leaf by 512 of 4 KiB that say the same. No translation changes, so no flush is needed. The loop is
// for walkers that set a bit meanwhile.
EptTable& EptTables::Split(Slot& slot) {
  EptTable* const table = allocator_.Allocate();
  uint64_t old = slot.load(std::memory_order_relaxed);
  do {
    uint64_t bits = old & ~EptEntry::kLarge;
    for (Slot& page : table->entries) {
      page.store(bits, std::memory_order_relaxed);
      bits += kPageSize;
    }
  } while (!slot.compare_exchange_strong(old, EptEntry::Table(table).bits(), std::memory_order_release));
  blocks_.Subtract();
  return *table;
}

GfnRange EptTables::Zap(GfnRange range, Retired& retired) {
  GfnRange zapped;
  range = Clip(range);
  if (!range.empty()) ZapIn(root_, kRootLevel, range, zapped, retired);
  return zapped;
}

void EptTables::ZapIn(EptTable& table, int level, GfnRange range, GfnRange& zapped, Retired& retired) {
  ForEachPresent(table, level, range, [&](Slot& slot, EptEntry entry, GfnRange pages) {
    if (level == kPageLevel || entry.large()) {
      if (entry.large()) blocks_.Subtract();
      Store(slot, EptEntry());
      zapped = zapped.Hull(pages);
      return;
    }
    EptTable* const next = TableOf(entry);
    if (level > kBlockLevel || !range.contains(pages)) {
      return ZapIn(*next, level - 1, range.Intersect(pages), zapped, retired);
    }
    GfnRange mapped;
    ForEachLeaf(*next, kPageLevel, pages, [&](Slot&, EptEntry, GfnRange page) { mapped = mapped.Hull(page); });
    if (mapped.empty()) return;  // an empty table is as good the next time
    Store(slot, EptEntry());
    zapped = zapped.Hull(mapped);
    retired.push_back(next);
  });
}

EptTables::Aged EptTables::ClearAccessed(GfnRange range) {
  Aged aged;
  range = Clip(range);
  if (range.empty()) return aged;
  ForEachLeaf(root_, kRootLevel, range, [&](Slot& slot, EptEntry entry, GfnRange pages) {
    aged.mapped = aged.mapped.Hull(pages);
    if (!entry.accessed()) return;
    slot.fetch_and(~EptEntry::kAccessed, std::memory_order_relaxed);
    aged.young = true;
  });
  return aged;
}

}  // namespace quire
