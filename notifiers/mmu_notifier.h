// The contract between the side that changes a guest's translations and the sides that cache them.
//
// It mirrors Linux's mmu_notifier (include/linux/mmu_notifier.h, mm/mmu_notifier.c): someone who knows one knows the
// other. The primary side is the guest's memory map (guest/); the subscribers are secondary MMUs: KVM's page tables
// behind a window, a software EPT, a device's IOTLB.
//
// To change or remove a translation, the primary side, holding the block's lock:
//   1. InvalidateRangeStart(invalidation)  every subscriber drops its translations of the range, flushes, and waits for
//                                          whoever may still use them. All pages are still allocated.
//   2. changes the entries
//   3. InvalidateRangeEnd(invalidation)
//   4. frees frames, after the end.
// Between start and end no subscriber installs a translation of the range: see InvalidationTracker.
#ifndef QUIRE_NOTIFIERS_MMU_NOTIFIER_H_
#define QUIRE_NOTIFIERS_MMU_NOTIFIER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/units.h"

namespace quire {

// Why translations change. The order and meaning are those of Linux's enum mmu_notifier_event.
enum class InvalidateEvent : uint8_t {
  kUnmap,            // the range leaves the guest's address space
  kClear,            // entries are cleared: reclaim, migration, discard, split, collapse
  kProtectionRange,  // access rights of a whole range change
  kProtectionPage,   // access rights of single pages change (write protection of shared pages)
  kSoftDirty,        // write protection only to track writes
  kRelease,          // the guest goes away
  kMigrate,          // the frame behind the page changes
  kExclusive,        // one device asks for exclusive access
};

struct Invalidation {
  GfnRange range;
  InvalidateEvent event = InvalidateEvent::kClear;
  // False: a subscriber that would have to wait answers Unavailable instead.
  bool blockable = true;
  // Lets a subscriber skip invalidations that it caused itself (kMigrate, kExclusive). Null: nobody.
  const void* owner = nullptr;
};

class MmuNotifier {
 public:
  virtual ~MmuNotifier() = default;

  // Drops every translation of `invalidation.range`, flushes, and returns when nobody uses the old ones any more.
  // May sleep only if blockable. Returns OK, or Unavailable ("try again") if not blockable. A subscriber that can
  // return Unavailable must not depend on the matching InvalidateRangeEnd.
  virtual absl::Status InvalidateRangeStart(const Invalidation& invalidation) = 0;
  virtual void InvalidateRangeEnd(const Invalidation& invalidation) = 0;

  // Aging. Each returns whether the guest accessed a page of the range since the mark was last cleared; subscribers
  // without access bits return false.
  virtual bool ClearFlushYoung(GfnRange range) { return (void)range, false; }  // clears the marks and flushes TLBs
  virtual bool ClearYoung(GfnRange range) { return (void)range, false; }       // clears the marks, may leave TLBs stale
  virtual bool TestYoung(Gfn gfn) { return (void)gfn, false; }                 // clears nothing

  // The guest goes away: drop everything, install nothing any more. Called once, possibly concurrently with the other
  // calls.
  virtual void Release() {}
};

}  // namespace quire

#endif  // QUIRE_NOTIFIERS_MMU_NOTIFIER_H_
