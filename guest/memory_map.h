// A guest's memory map: one entry a page, 512 to a block, one lock a block (the split page-table lock of Linux's mm).
#ifndef QUIRE_GUEST_MEMORY_MAP_H_
#define QUIRE_GUEST_MEMORY_MAP_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/huge/granularity.h"
#include "guest/page_entry.h"
#include "guest/wired_pages.h"

namespace quire {

class GuestMemory;
struct Block;

// A block's place on a queue.
struct BlockLinks {
  Block* next = nullptr;
  Block* previous = nullptr;
};

// 2 MiB of a guest's memory. On a cache line of its own, for every fault takes its lock.
struct alignas(64) Block {
  absl::Mutex lock;

  // How many of the block's entries are in each state.
  std::array<uint16_t, kPageStates> count ABSL_GUARDED_BY(lock) = {};
  FaultHistory faults ABSL_GUARDED_BY(lock);
  // The frames of its 512 pages were populated at once, and each page has its own still: aligned, one after the other,
  // with a content of the guest's or none. A secondary MMU may map it by one entry.
  bool whole ABSL_GUARDED_BY(lock) = false;
  // The guest has asked for it to come whole (GuestMemory::AdviseHuge).
  bool advised ABSL_GUARDED_BY(lock) = false;
  // Of a clone behind a window: the window still shows the template's frames here, none of the clone's own.
  bool viewed ABSL_GUARDED_BY(lock) = false;
  // The reclaimer has it on a queue, or in hand. Every block is that has frames of pages which are not wired.
  bool queued ABSL_GUARDED_BY(lock) = false;
  // The guest's fault, by its number modulo 2^32, that it came in whole for; 0: none. A hint, read without the lock.
  std::atomic<uint32_t> whole_fault = 0;

  // Which of its pages are wired; null: none.
  std::unique_ptr<WiredPages> wired ABSL_GUARDED_BY(lock);

  // Set once, before anybody else sees the block.
  GuestMemory* guest = nullptr;
  BlockNumber number;

  // The reclaimer's queues, of all blocks and of its guest's (if that has a limit), guarded by the reclaimer's lock.
  BlockLinks links;
  BlockLinks guest_links;

  uint16_t Count(PageState state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    return count[static_cast<size_t>(state)];
  }
  bool HasFrames() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    return Count(PageState::kResident) + Count(PageState::kOut) + Count(PageState::kInTransit) > 0;
  }
  bool IsWired(Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    return wired != nullptr && wired->contains(IndexInBlock(gfn));
  }
  uint16_t CountWired() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) { return wired != nullptr ? wired->count() : 0; }
};

static_assert(sizeof(Block) <= 128, "two cache lines for 2 MiB");

// Pages of a guest or a pool in each state; exact when nothing runs.
struct PageStateCounts {
  std::array<std::atomic<uint64_t>, kPageStates> pages = {};

  void Move(PageState from, PageState to, uint64_t count = 1) {
    pages[static_cast<size_t>(from)].fetch_sub(count, std::memory_order_relaxed);
    pages[static_cast<size_t>(to)].fetch_add(count, std::memory_order_relaxed);
  }
  PageCount operator[](PageState state) const {
    return PageCount(pages[static_cast<size_t>(state)].load(std::memory_order_relaxed));
  }
};

// Entries are read and changed under their block's lock, and by one function, which keeps the counts. What is kept of
// an entry is in what it differs from that of a fresh page: a map of any size is made without touching its entries.
class MemoryMap {
 public:
  // Every page of it is `fresh`: absent, or inherited. `size` is at least one page; the last block may be partial.
  static absl::StatusOr<MemoryMap> Create(GuestMemory& guest, PageCount size, PageEntry fresh = PageEntry::Absent());

  MemoryMap(MemoryMap&&) = default;

  PageCount size() const { return size_; }
  uint64_t blocks() const { return size_.in_blocks_ceil(); }
  Block& block(BlockNumber number) const { return blocks_[number.value()]; }
  // The pages of the block that the guest has: all 512, but in a partial last block.
  GfnRange Pages(const Block& block) const { return PagesOf(block.number).Intersect(GfnRange(Gfn(0), size_)); }

  PageEntry Get(const Block& block, Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock) {
    (void)block;
    return Read(gfn);
  }
  void Set(Block& block, Gfn gfn, PageEntry entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Gives the pages of a range, which lies within the block, consecutive frames from `first` on. Those that had a frame
  // keep the slots that were kept for them.
  void SetRun(Block& block, GfnRange range, PageState state, FrameNumber first)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  const PageStateCounts& counts() const { return *counts_; }
  ByteCount metadata() const;

 private:
  MemoryMap(PageCount size, PageEntry fresh, Mapping entries);
  uint64_t& Place(Gfn gfn) const { return reinterpret_cast<uint64_t*>(entries_.data())[gfn.value()]; }
  PageEntry Read(Gfn gfn) const { return PageEntry::FromBits(Place(gfn) ^ fresh_.bits()); }
  void Write(Gfn gfn, PageEntry entry) { Place(gfn) = entry.bits() ^ fresh_.bits(); }

  PageCount size_;
  PageEntry fresh_;
  Mapping entries_;
  std::unique_ptr<Block[]> blocks_;
  std::unique_ptr<PageStateCounts> counts_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_MEMORY_MAP_H_
