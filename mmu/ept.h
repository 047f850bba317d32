// A secondary MMU in software: extended page tables for software vCPUs, which are host threads that run a workload
// compiled natively and pass each of their memory accesses through EptVcpu::WithPage.
//
// It needs neither /dev/kvm nor privileges, and follows the notifier contract to the letter, so it is also what the
// manager is tested against.
//
//   WithPage: enter guest mode -- TLB -- miss: walk, set A and D, fill the TLB -- use the page -- leave guest mode
//                                          | no leaf, or not writable
//                                          leave guest mode
//                                          fault: snapshot -- Resolve -- lock -- MustRetry? -- install -- unlock
//
//   Invalidate: lock -- tracker -- zap -- request flushes -- unlock -- wait for vCPUs that are in guest mode -- free
//   tables
//
// Locks: mu_, then a ShootdownGate's. Neither is held while a fault resolves, nor while a flush is awaited. A vCPU in
// guest mode takes only its own gate's lock, so waiting for it to leave always ends.
#ifndef QUIRE_MMU_EPT_H_
#define QUIRE_MMU_EPT_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "mmu/ept_entry.h"
#include "mmu/ept_tables.h"
#include "mmu/shootdown.h"
#include "mmu/tlb.h"
#include "notifiers/invalidation_tracker.h"
#include "notifiers/mmu_notifier.h"

namespace quire {

struct EptStatistics {
  uint64_t tlb_hits = 0;
  uint64_t tlb_misses = 0;
  uint64_t faults = 0;
  uint64_t retries = 0;  // faults resolved again because an invalidation came in between
  uint64_t flushes = 0;  // shootdown requests served by vCPUs
  uint64_t blocks = 0;   // blocks mapped by a 2 MiB leaf now
  ByteCount metadata;    // tables and TLBs now; ordinary memory, outside the pool
};

// One guest's software EPT. Thread safe.
class Ept final : public MmuNotifier {
 public:
  // Subscribes to `memory`, which outlives it and has at most EptTables::kMaxPages pages.
  explicit Ept(FaultHandler& memory);
  ~Ept() override;  // no EptVcpu is left

  EptStatistics statistics() const ABSL_LOCKS_EXCLUDED(mu_);
  // From a fault's beginning to its installed translation.
  const LatencyHistogram& fault_latency() const { return fault_latency_; }
  // The leaf that maps a page now, for tests and inspection.
  EptEntry Lookup(Gfn gfn) const ABSL_LOCKS_EXCLUDED(mu_);

  // MmuNotifier. Never refuses: what it waits for is a vCPU's use of one page, as KVM waits for its interrupts.
  absl::Status InvalidateRangeStart(const Invalidation& invalidation) override ABSL_LOCKS_EXCLUDED(mu_);
  void InvalidateRangeEnd(const Invalidation& invalidation) override ABSL_LOCKS_EXCLUDED(mu_);
  // After it, the next access of a page sets its mark again.
  bool ClearFlushYoung(GfnRange range) override ABSL_LOCKS_EXCLUDED(mu_);
  // Leaves TLBs as they are: a vCPU that has a page in its TLB goes on without setting the mark, until the entry is
  // displaced or flushed. A page in use may so look idle, but never the other way round.
  bool ClearYoung(GfnRange range) override ABSL_LOCKS_EXCLUDED(mu_);
  bool TestYoung(Gfn gfn) override ABSL_LOCKS_EXCLUDED(mu_);
  void Release() override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  friend class EptVcpu;

  // What Ept and an EptVcpu share. Outlives the vCPU, so that a shootdown can wait on it without holding mu_; given to
  // the next vCPU then.
  struct Seat {
    ShootdownGate gate;
    // Of all vCPUs that sat here.
    SingleWriterCounter hits;
    SingleWriterCounter misses;
    SingleWriterCounter faults;
    SingleWriterCounter retries;
    bool taken = false;  // under mu_
  };

  // A change under way: what was unmapped, what was unlinked, and who may still use either.
  struct Shootdown {
    GfnRange range;
    EptTables::Retired retired;
    absl::InlinedVector<std::pair<const ShootdownGate*, uint64_t>, 8> awaited;
  };

  Seat* Join() ABSL_LOCKS_EXCLUDED(mu_);
  void Leave(Seat* seat) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Fault(Gfn gfn, Access access, Seat& seat) ABSL_LOCKS_EXCLUDED(mu_);
  enum class Installed { kYes, kRetry, kReleased };
  Installed Install(InvalidationTracker::Snapshot snapshot, const Resolution& resolution) ABSL_LOCKS_EXCLUDED(mu_);
  void RequestFlushesLocked(Shootdown& shootdown) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Waits for the flushes, then frees the tables.
  void Finish(Shootdown shootdown);

  FaultHandler& memory_;
  mutable absl::Mutex mu_;
  EptTables tables_;             // changed under mu_; walked without it, in guest mode
  InvalidationTracker tracker_;  // under mu_, but for snapshots
  std::deque<Seat> seats_ ABSL_GUARDED_BY(mu_);
  bool released_ ABSL_GUARDED_BY(mu_) = false;
  LatencyHistogram fault_latency_;
};

// One software vCPU. Used by one thread.
class EptVcpu {
 public:
  explicit EptVcpu(Ept& ept) : ept_(ept), seat_(*ept.Join()) {}
  EptVcpu(const EptVcpu&) = delete;
  EptVcpu& operator=(const EptVcpu&) = delete;
  ~EptVcpu() { ept_.Leave(&seat_); }

  // Calls use(std::byte* page) with the 4096 bytes of guest page `gfn`, which stay this page's until it returns. For a
  // read, `use` must not write. It is short and calls nothing of this EPT: an invalidation of the page waits for it.
  // May sleep before calling `use`. Errors: those of FaultHandler::Resolve.
  template <class Use>
  absl::Status WithPage(Gfn gfn, Access access, Use&& use) {
    for (;;) {
      {
        GuestMode guest_mode(*this);
        std::byte* page = tlb_.Find(gfn, access);
        if (page != nullptr) [[likely]] {
          seat_.hits.Add();
          return use(page), absl::OkStatus();
        }
        page = Walk(gfn, access);
        if (page != nullptr) return use(page), absl::OkStatus();
      }
      absl::Status status = ept_.Fault(gfn, access, seat_);
      if (!status.ok()) return status;
    }
  }

 private:
  class GuestMode {
   public:
    explicit GuestMode(EptVcpu& vcpu) : gate_(vcpu.seat_.gate) { gate_.Enter(vcpu.tlb_); }
    ~GuestMode() { gate_.Leave(); }

   private:
    ShootdownGate& gate_;
  };

  // Looks `gfn` up in the tables and fills the TLB; null if a fault is needed. In guest mode.
  std::byte* Walk(Gfn gfn, Access access);

  Ept& ept_;
  Ept::Seat& seat_;
  Tlb tlb_;
};

}  // namespace quire

#endif  // QUIRE_MMU_EPT_H_
