// Tells a fault whether the translation it has just resolved may still be installed.
//
// The scheme is KVM's (virt/kvm/kvm_main.c: kvm_mmu_invalidate_begin, _range_add, _end; include/linux/kvm_host.h:
// mmu_invalidate_retry_gfn): a sequence that grows with each invalidation ended, a count of those in progress, and the
// hull of their ranges. A fault does
//   snapshot = tracker.TakeSnapshot();       no lock held
//   resolution = handler.Resolve(...);       no lock held; may sleep
//   lock the MMU
//   if (tracker.MustRetry(snapshot, range)) unlock and start over
//   install; unlock
// and an invalidation, from InvalidateRangeStart to InvalidateRangeEnd,
//   lock the MMU; Begin(); AddRange(range); zap; unlock; flush
//   (the primary side changes its entries)
//   lock the MMU; End(); unlock
//
//   fault                                   invalidation
//   ------------------------------------    ------------------------------------
//   takes a snapshot, resolves to the old
//   frame
//                                           Begin, zap (nothing there yet)
//                                           the entry changes
//   lock; MustRetry: in progress, and the
//   range overlaps -> again
//                                           End: the sequence grows
//   (or here) lock; MustRetry: the
//   sequence has grown -> again
#ifndef QUIRE_NOTIFIERS_INVALIDATION_TRACKER_H_
#define QUIRE_NOTIFIERS_INVALIDATION_TRACKER_H_

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/units.h"

namespace quire {

// Has no lock of its own: the MMU's lock guards it. Held exclusively for Begin, AddRange and End; held in any way for
// MustRetry; not needed for TakeSnapshot.
class InvalidationTracker {
 public:
  // A moment in the tracker's history.
  class Snapshot {
   private:
    friend class InvalidationTracker;
    explicit Snapshot(uint64_t sequence) : sequence_(sequence) {}
    uint64_t sequence_;
  };

  // An invalidation begins. Invalidations may overlap in time and in range.
  void Begin() {
    if (in_progress_++ == 0) hull_ = GfnRange();
  }

  // Adds to what is being invalidated; between Begin and End, any number of times. The hull of all ranges only grows
  // until nothing is in progress: faults in between two ranges retry in vain, which costs time and nothing else.
  void AddRange(GfnRange range) {
    QUIRE_CHECK(in_progress_ > 0);
    hull_ = hull_.Hull(range);
  }

  // An invalidation ends. The release pairs with the acquire in TakeSnapshot: a fault whose snapshot has the new
  // sequence resolves from the changed entries.
  void End() {
    QUIRE_CHECK(in_progress_ > 0);
    sequence_.store(sequence_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    --in_progress_;
  }

  // To be taken before the fault resolves. The acquire pairs with the release in End, and keeps what the fault reads
  // from the primary side after it.
  Snapshot TakeSnapshot() const { return Snapshot(sequence_.load(std::memory_order_acquire)); }

  // Whether an invalidation of `range` is in progress or any has ended since `snapshot`. If not, the caller, still
  // under the lock, may install: a later invalidation finds what it installed and zaps it.
  bool MustRetry(Snapshot snapshot, GfnRange range) const {
    if (in_progress_ > 0 && hull_.overlaps(range)) return true;
    return sequence_.load(std::memory_order_relaxed) != snapshot.sequence_;
  }
  bool MustRetry(Snapshot snapshot, Gfn gfn) const { return MustRetry(snapshot, GfnRange(gfn, kOnePage)); }

  // Invalidations begun and not ended.
  uint64_t in_progress() const { return in_progress_; }

 private:
  std::atomic<uint64_t> sequence_{0};
  uint64_t in_progress_ = 0;
  GfnRange hull_;  // of all ranges added since in_progress_ was last zero
};

}  // namespace quire

#endif  // QUIRE_NOTIFIERS_INVALIDATION_TRACKER_H_
