// How much of a block a fault brings in: one page, the 64 KiB around it, or all 2 MiB.
//
// A whole block costs one operation of the host's page tables, but as much decompression as its pages take, and memory
// for pages that may not be wanted. It pays where the guest is going to use most of the block soon. Nobody tells: KVM
// has no access bits that the manager could read. Two things in the faults themselves do:
//
//   stream         faults that each begin where the one before ended, in this block, or at the beginning of this block
//                  just after the one before it came in whole: what follows will be wanted
//   concentration  this block has had several of its guest's latest faults: the guest is at work here
//
// and memory has a say. If a block was brought in whole and is wanted again before so much as half of the pool has been
// evicted, then guests are at work in more blocks than fit, and bringing in whole ones means evicting whole ones that
// are in use: they get pages then.
//
// A guest that touches its memory at random shows neither, and pays for single pages only, whatever it has of each
// block.
//
// A guest can say where it wants whole blocks (GuestMemory::AdviseHuge). With `advised_only` the rules above hold for
// the blocks it has asked for, and all others come by pages and runs, as with madvise(MADV_HUGEPAGE) where Linux's
// transparent_hugepage/enabled is "madvise". Advice is a permission: it makes no block come in.
#ifndef QUIRE_GUEST_HUGE_GRANULARITY_H_
#define QUIRE_GUEST_HUGE_GRANULARITY_H_

#include <cstdint>

#include "base/units.h"

namespace quire {

enum class Granularity : uint8_t { kPage, kRun, kBlock };

// Where whole blocks may come in: nowhere, where a guest has asked for them, anywhere.
enum class BlockPolicy : uint8_t { kNever, kAdvised, kAlways };

struct GranularityOptions {
  bool blocks = true;                   // false: never more than a run
  bool advised_only = false;            // blocks only where the guest has asked for them
  uint8_t stream_faults = 2;            // so many faults in a row, each where the last one ended, are a stream
  uint8_t concentrated_faults = 12;     // so many in one block ...
  uint16_t concentration_window = 128;  // ... of so many of the guest's latest are concentration
};

// What the faults in one block have looked like. Guarded by the block's lock.
struct FaultHistory {
  uint32_t window_begin = 0;   // number of the fault that `window_faults` counts from, modulo 2^32
  uint16_t next_expected = 0;  // index of the page after the last run that a fault brought in
  uint8_t window_faults = 0;
  uint8_t streamed = 0;  // faults in a row that were at next_expected
  bool came_whole = false;
  uint32_t whole_at = 0;  // if it came whole: pages that had been evicted in all by then, modulo 2^32
};

// A block of which pages are not in memory is brought in whole.
inline void NoteWhole(FaultHistory& history, uint32_t evicted_pages) {
  history.came_whole = true;
  history.whole_at = evicted_pages;
}

// Whether it was brought in whole so lately that it should not be again.
constexpr bool CameWholeLately(const FaultHistory& history, uint32_t evicted_pages, PageCount pool) {
  return history.came_whole && evicted_pages - history.whole_at < pool.in_pages() / 2;
}

// Whether fault `number` of a guest follows so closely on fault `whole_fault`, for which a block was brought in whole
// (0: none was), that it may be the same stream's next: a few streams may be under way at once. Modulo 2^32.
constexpr bool CameJustBefore(uint32_t whole_fault, uint32_t number) {
  constexpr uint32_t kFaultsBetween = 16;
  return whole_fault != 0 && number - whole_fault + 1 <= kFaultsBetween;
}

// Whether the latest fault in the block was part of a stream.
constexpr bool InStream(const GranularityOptions& options, const FaultHistory& history) {
  return history.streamed >= options.stream_faults;
}

// Where in the block after it a stream may go on, in pages: several vCPUs may arrive there in any order.
inline constexpr uint64_t kStreamBegin = 16;

// What the options say; it may be changed while guests run.
constexpr BlockPolicy PolicyOf(const GranularityOptions& options) {
  if (!options.blocks) return BlockPolicy::kNever;
  return options.advised_only ? BlockPolicy::kAdvised : BlockPolicy::kAlways;
}

// Whether a block may be brought in whole at all; `advised`: its guest has asked for that.
constexpr bool MayBeWhole(BlockPolicy policy, bool advised) {
  return policy == BlockPolicy::kAlways || (advised && policy == BlockPolicy::kAdvised);
}

struct BlockFault {
  uint64_t index = 0;         // of the page in its block, 0 to 511
  uint32_t number = 0;        // counts the guest's faults, modulo 2^32
  bool after_stream = false;  // the block before this one has just come in whole (CameJustBefore)
  bool may_be_whole = true;   // MayBeWhole, for this block
};

// Decides for a fault in a block, and remembers it.
inline Granularity ChooseGranularity(const GranularityOptions& options, FaultHistory& history,
                                     const BlockFault& fault) {
  if (fault.number - history.window_begin >= options.concentration_window || history.window_faults == 0) {
    history.window_begin = fault.number;
    history.window_faults = 0;
  }
  if (history.window_faults < UINT8_MAX) ++history.window_faults;
  const bool sequential = fault.index == history.next_expected && fault.index != 0;
  if (fault.after_stream && fault.index < kStreamBegin) {
    history.streamed = options.stream_faults;
  } else if (!sequential) {
    history.streamed = 0;
  } else if (history.streamed < options.stream_faults) {
    ++history.streamed;
  }
  const bool concentrated = history.window_faults >= options.concentrated_faults;
  if (fault.may_be_whole && (concentrated || InStream(options, history))) return Granularity::kBlock;
  return sequential ? Granularity::kRun : Granularity::kPage;
}

}  // namespace quire

#endif  // QUIRE_GUEST_HUGE_GRANULARITY_H_
