// Subscriptions to a range of guest pages, for devices that keep translations of a few buffers rather than of a whole
// guest.
//
// Mirrors mmu_interval_notifier (mm/mmu_notifier.c of Linux 6.12). A device that wants a translation does
//   again:
//     sequence = notifier.ReadBegin(subscription);      sleeps while the range is being invalidated
//     resolve the pages                                  may sleep
//     lock the device's own lock
//     if (subscription.ReadRetry(sequence)) { unlock; goto again; }
//     use the translation
//     unlock
// and its Invalidate takes the same lock, calls SetSequence, and drops the translation.
//
//   device                                  invalidation
//   ------------------------------------    ------------------------------------
//   s = ReadBegin: not invalidating
//   resolves to the old frame
//                                           start: the notifier's sequence turns odd
//                                           Invalidate: lock; SetSequence; drop; unlock
//   lock; ReadRetry(s): another sequence
//   -> again
//   ReadBegin: this subscription's sequence
//   is the notifier's odd one -> sleep
//                                           the entry changes
//                                           end of the last one: even again, wake
#ifndef QUIRE_NOTIFIERS_INTERVAL_NOTIFIER_H_
#define QUIRE_NOTIFIERS_INTERVAL_NOTIFIER_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/units.h"
#include "notifiers/mmu_notifier.h"
#include "notifiers/notifier_chain.h"

namespace quire {

// One device's interest in one range. Owned by the device; derive from it.
class IntervalSubscription {
 public:
  // `range` is not empty.
  explicit IntervalSubscription(GfnRange range);
  IntervalSubscription(const IntervalSubscription&) = delete;
  IntervalSubscription& operator=(const IntervalSubscription&) = delete;
  virtual ~IntervalSubscription() = default;  // has been removed

  // Drops the device's translations of the invalidation's range, which overlaps range(), and returns true when nothing
  // uses them any more. Takes the device's lock, and calls SetSequence(sequence) under it. Returns false, having done
  // nothing, only where it would have to wait and the invalidation is not blockable.
  virtual bool Invalidate(const Invalidation& invalidation, uint64_t sequence) = 0;

  // Whether what was resolved since ReadBegin returned `sequence` may be stale. Under the device's lock.
  bool ReadRetry(uint64_t sequence) const { return sequence_.load(std::memory_order_relaxed) != sequence; }

  // The same without the lock, to give up early: true is certain, false must be confirmed with ReadRetry.
  bool CheckRetry(uint64_t sequence) const { return ReadRetry(sequence); }

  GfnRange range() const { return range_; }

 protected:
  // Only from Invalidate, under the device's lock; or before something that orders it as the lock would, towards a
  // ReadRetry of which this invalidation would have to wait for the use that follows (Iotlb has such a thing). Pairs
  // with the read in ReadBegin.
  void SetSequence(uint64_t sequence) { sequence_.store(sequence, std::memory_order_relaxed); }

 private:
  friend class IntervalNotifier;
  const GfnRange range_;
  std::atomic<uint64_t> sequence_{0};  // always odd once inserted
};

// The subscriber of the chain that stands for all interval subscriptions of one guest. Thread safe.
//
// Finding the subscriptions of a range is a linear scan: devices subscribe to few ranges. Whoever needs thousands puts
// an interval tree in place of subscriptions_ and changes nothing else.
class IntervalNotifier final : public MmuNotifier {
 public:
  // Registers with `chain`, which outlives it.
  explicit IntervalNotifier(NotifierChain& chain);
  ~IntervalNotifier() override;  // every subscription has been removed

  // Adds a subscription. Takes effect when no invalidation is active; until then ReadBegin sleeps. Does not sleep.
  void Insert(IntervalSubscription* subscription) ABSL_LOCKS_EXCLUDED(mu_);
  // Removes a subscription that was inserted; on return its Invalidate is not running and will not run. Sleeps while
  // an invalidation is active: the caller holds no lock that Invalidate takes.
  void Remove(IntervalSubscription* subscription) ABSL_LOCKS_EXCLUDED(mu_);

  // Sleeps while `subscription` is being invalidated; returns the sequence for ReadRetry. The caller is outside any
  // invalidation and holds no lock that Invalidate takes.
  uint64_t ReadBegin(const IntervalSubscription& subscription) ABSL_LOCKS_EXCLUDED(mu_);

  absl::Status InvalidateRangeStart(const Invalidation& invalidation) override ABSL_LOCKS_EXCLUDED(mu_);
  void InvalidateRangeEnd(const Invalidation& invalidation) override ABSL_LOCKS_EXCLUDED(mu_);
  // Invalidates every subscription with kRelease.
  void Release() override;

 private:
  struct Deferred {
    IntervalSubscription* subscription;
    bool insert;
  };

  // Odd from the first start that meets a subscription to the last end.
  bool invalidating() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return sequence_ % 2 != 0; }
  void AwaitChangeFrom(uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ApplyDeferredLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasOverlapLocked(GfnRange range) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  NotifierChain& chain_;
  absl::Mutex mu_;                              // held for list work only, never while a subscription is called
  uint64_t sequence_ ABSL_GUARDED_BY(mu_) = 2;  // so that sequence_ - 1 is odd and valid
  uint64_t active_ ABSL_GUARDED_BY(mu_) = 0;    // starts without their end
  std::vector<IntervalSubscription*> subscriptions_ ABSL_GUARDED_BY(mu_);  // does not change while invalidating()
  std::vector<Deferred> deferred_ ABSL_GUARDED_BY(mu_);                    // changes that wait for the last end
};

}  // namespace quire

#endif  // QUIRE_NOTIFIERS_INTERVAL_NOTIFIER_H_
