// The chain of secondary MMUs that are told when a guest's translations change.
//
// Mirrors mm/mmu_notifier.c of Linux (read in 6.12):
//   Linux                                          here
//   mmu_notifier_register / unregister             NotifierChain::Register / Unregister
//   mmu_notifier_invalidate_range_start / _end     ScopedInvalidation, from its start to its end
//   ..._invalidate_range_start_nonblock            ScopedInvalidation::TryStart
//   mmu_notifier_clear_flush_young, clear_young,
//   test_young                                     NotifierChain::ClearFlushYoung, ClearYoung, TestYoung
//   mmu_notifier_release                           NotifierChain::Release
//   mmu_interval_notifier_*                        interval_notifier.h
//
// Differences, each to the strict side:
// - Start and end are one object: an end cannot be forgotten, and after a refused start there is no end to call.
// - Register and Unregister wait for the invalidations that began before them to end. So each subscriber sees one end
//   for each start and none without; Linux gets the first half from mm_take_all_locks() and leaves the second to the
//   subscriber (KVM's mn_active_invalidate_count).
// - Unregister does not call Release: a subscriber that leaves by itself knows that it does.
//
// Left out on purpose:
// - arch_invalidate_secondary_tlbs (atomic, for devices that walk the CPU's own page tables): every subscriber here has
//   translations of its own, so start and end are the whole truth.
// - alloc_notifier, free_notifier, mmu_notifier_get/put (one shared, reference-counted subscriber an address space):
//   subscribers are owned by whoever registers them.
// - change_pte and invalidate_range: gone from Linux too.
#ifndef QUIRE_NOTIFIERS_NOTIFIER_CHAIN_H_
#define QUIRE_NOTIFIERS_NOTIFIER_CHAIN_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/counters.h"
#include "base/units.h"
#include "notifiers/mmu_notifier.h"

namespace quire {

// One guest's subscribers. Thread safe. Subscribers are called in the order in which they registered, on the thread
// that changes translations, with no lock of the chain held; they must not register or unregister from a callback.
//
// A caller inside the chain is counted (two atomic additions) in one of two counters, as in SRCU (kernel/rcu/
// srcutree.c); a change of the list publishes a new list, then waits for each counter in turn to drain.
class NotifierChain {
 public:
  NotifierChain();
  NotifierChain(const NotifierChain&) = delete;
  NotifierChain& operator=(const NotifierChain&) = delete;
  ~NotifierChain();  // every subscriber has unregistered

  // Adds a subscriber, which stays the caller's. On return, every invalidation that the subscriber was not told of has
  // ended, so what it resolves from now on is safe to install. If the guest has been released already, the
  // subscriber's Release is called at once.
  // Register and Unregister may sleep: the caller is outside any invalidation, and holds no lock that one needs.
  void Register(MmuNotifier* subscriber) ABSL_LOCKS_EXCLUDED(mu_);

  // Removes a subscriber. On return, none of its callbacks is running or will run.
  void Unregister(MmuNotifier* subscriber) ABSL_LOCKS_EXCLUDED(mu_);

  // Aging: whether any subscriber says that the guest accessed the range. All of them are asked, since each has marks
  // to clear.
  bool ClearFlushYoung(GfnRange range);
  bool ClearYoung(GfnRange range);
  bool TestYoung(Gfn gfn);

  // The guest goes away: each subscriber is told once. Later calls do nothing.
  void Release() ABSL_LOCKS_EXCLUDED(mu_);

  // Invalidations begun, and pages in their ranges. Refused ones are not counted.
  uint64_t invalidations() const { return invalidations_.value(); }
  uint64_t pages() const { return pages_.value(); }

 private:
  friend class ScopedInvalidation;
  using Subscribers = std::vector<MmuNotifier*>;

  // A stay inside the chain: the list as it was on entry, kept alive until Leave.
  struct Visit {
    const Subscribers* subscribers;
    int side;
  };
  Visit Enter();
  void Leave(Visit visit) { visitors_[visit.side].count.fetch_sub(1, std::memory_order_release); }

  absl::Status Start(const Subscribers& subscribers, const Invalidation& invalidation);
  void Publish(std::unique_ptr<const Subscribers> subscribers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WaitForVisitors(int side) const;

  // Two on different lines: one drains while the other counts newcomers.
  struct alignas(64) Visitors {
    std::atomic<uint64_t> count{0};
  };
  std::array<Visitors, 2> visitors_;
  std::atomic<int> side_{0};
  std::atomic<const Subscribers*> subscribers_;  // owned by current_

  absl::Mutex mu_;  // serializes changes of the list
  std::unique_ptr<const Subscribers> current_ ABSL_GUARDED_BY(mu_);
  bool released_ ABSL_GUARDED_BY(mu_) = false;

  Counter invalidations_;
  Counter pages_;
};

// An invalidation under way: started on construction, ended on destruction. Between the two, no subscriber uses or
// installs a translation of the range. Move-only; start and end may be on different threads.
//
//   ScopedInvalidation invalidation(chain, {.range = range, .event = InvalidateEvent::kClear});
//   ... change the entries ...
//   invalidation.End();  // or let it go out of scope
//   ... free the frames ...
class ScopedInvalidation {
 public:
  // `invalidation` is blockable and its range not empty. May sleep.
  ScopedInvalidation(NotifierChain& chain, const Invalidation& invalidation);

  // The non-blockable form: returns Unavailable if a subscriber would have had to wait. Every subscriber has been
  // called all the same, and those that did start have been given their end; the caller has nothing to undo.
  static absl::StatusOr<ScopedInvalidation> TryStart(NotifierChain& chain, Invalidation invalidation);

  ScopedInvalidation(ScopedInvalidation&& other) noexcept;
  ScopedInvalidation& operator=(ScopedInvalidation&&) = delete;
  ~ScopedInvalidation() { End(); }

  // Ends the invalidation now, if it has not ended yet.
  void End();

 private:
  ScopedInvalidation(NotifierChain& chain, NotifierChain::Visit visit, const Invalidation& invalidation)
      : chain_(&chain), visit_(visit), invalidation_(invalidation) {}

  NotifierChain* chain_;  // null once ended or moved from
  NotifierChain::Visit visit_;
  Invalidation invalidation_;
};

}  // namespace quire

#endif  // QUIRE_NOTIFIERS_NOTIFIER_CHAIN_H_
