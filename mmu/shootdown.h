// Acknowledged TLB shootdown: how an invalidation makes a software vCPU forget translations, and knows when it has.
//
// On hardware this is INVEPT and an inter-processor interrupt. Here a vCPU is in guest mode only while it uses one
// page, and looks for requests each time it enters. So an invalidation posts its request and then waits only for a vCPU
// that is in guest mode at that moment, until it has left or has entered anew and acknowledged. A vCPU outside guest
// mode (in a fault, asleep, not running) is not waited for: it flushes before it uses anything again.
//
//   vCPU                                    invalidation
//   ------------------------------------    ------------------------------------
//                                           zap the entry
//   in_guest_ = true       (A)              ++requested_             (C)
//   read requested_        (B)              read in_guest_           (D)
// All four are sequentially consistent: either B sees C, and the vCPU flushes before it looks at its TLB or the table;
// or D sees A, and the invalidation waits.
#ifndef QUIRE_MMU_SHOOTDOWN_H_
#define QUIRE_MMU_SHOOTDOWN_H_

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/synchronization/mutex.h"
#include "base/counters.h"
#include "base/units.h"
#include "mmu/tlb.h"

namespace quire {

// Between one vCPU (Enter, Leave: one thread) and invalidations (Request, InGuest, Await: any thread).
class alignas(64) ShootdownGate {
 public:
  // Enters guest mode, having dropped from `tlb` what was asked for meanwhile.
  void Enter(Tlb& tlb) {
    in_guest_.store(true, std::memory_order_seq_cst);                       // (A)
    const uint64_t requested = requested_.load(std::memory_order_seq_cst);  // (B)
    if (requested != acknowledged_.load(std::memory_order_relaxed)) [[unlikely]]
      Acknowledge(tlb);
  }
  // Leaves guest mode. The release pairs with the acquires in Await: what the vCPU did to the page comes before
  // whatever the invalidation does with it.
  void Leave() { in_guest_.store(false, std::memory_order_release); }

  // Asks the vCPU to drop its translations of `range` (none, if empty) before it next uses any. Returns the ticket to
  // await. The entries have been zapped before.
  uint64_t Request(GfnRange range) ABSL_LOCKS_EXCLUDED(mu_);

  // Whether the vCPU is in guest mode, and so may still use what was zapped before the last Request.
  bool InGuest() const { return in_guest_.load(std::memory_order_seq_cst); }  // (D)

  // Returns once the vCPU has been outside guest mode, or has acknowledged, since Request returned `ticket`.
  void Await(uint64_t ticket) const;

  // Requests served by the vCPU.
  uint64_t flushes() const { return flushes_.value(); }

 private:
  void Acknowledge(Tlb& tlb) ABSL_LOCKS_EXCLUDED(mu_);

  std::atomic<bool> in_guest_{false};
  std::atomic<uint64_t> acknowledged_{0};  // the last request served
  SingleWriterCounter flushes_;

  // What invalidations write, on a line of its own.
  alignas(64) std::atomic<uint64_t> requested_{0};
  absl::Mutex mu_;                                                 // innermost: nothing is locked under it
  absl::InlinedVector<GfnRange, 8> pending_ ABSL_GUARDED_BY(mu_);  // ranges to drop, unless ...
  bool pending_all_ ABSL_GUARDED_BY(mu_) = false;                  // ... there were too many of them
};

}  // namespace quire

#endif  // QUIRE_MMU_SHOOTDOWN_H_
